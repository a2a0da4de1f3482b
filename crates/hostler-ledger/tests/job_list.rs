//! Listings of jobs.

mod common;

use common::*;
use hostler_ledger::{Change, JobEnd, JobFilter, JobId, Ledger, Seq, Which};

fn write(ledger: &Ledger, changes: Vec<Change>) -> Seq {
    block_on(ledger.write(changes)).expect("written")
}

#[test]
fn jobs_are_listed_the_newest_first_by_what_is_asked() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = open(dir.path());
    let ids: Vec<JobId> = (0..6).map(|_| JobId::new()).collect();
    for (n, id) in ids.iter().enumerate() {
        let mut change = job_created(id, (n == 5).then(|| &ids[3]));
        if let Change::JobCreated { job, .. } = &mut change {
            job.name = ["build", "test"][n % 2].to_owned();
            job.group = (n < 2).then(|| "nightly".to_owned());
        }
        write(&ledger, vec![change]);
    }
    write(
        &ledger,
        vec![
            job_ended(&ids[1], JobEnd::Failed),
            job_ended(&ids[2], JobEnd::Failed),
        ],
    );
    let listed = |filter: JobFilter| -> Vec<usize> {
        let jobs = ledger.jobs(&filter).expect("read");
        let place = |id: &JobId| ids.iter().position(|one| one == id).expect("one of them");
        jobs.iter().map(|job| place(&job.id)).collect()
    };
    let all = || JobFilter {
        which: Which::All,
        ..JobFilter::default()
    };
    assert_eq!(listed(JobFilter::default()), [5, 4, 3, 0]);
    assert_eq!(listed(all()), [5, 4, 3, 2, 1, 0]);
    let closed = JobFilter {
        which: Which::Closed,
        ..JobFilter::default()
    };
    assert_eq!(listed(closed), [2, 1]);
    let name = Some("test".to_owned());
    assert_eq!(
        listed(JobFilter {
            name: name.clone(),
            ..all()
        }),
        [5, 3, 1]
    );
    let open = JobFilter {
        name,
        ..JobFilter::default()
    };
    assert_eq!(listed(open), [5, 3]);
    let group = Some("nightly".to_owned());
    assert_eq!(
        listed(JobFilter {
            group: group.clone(),
            ..all()
        }),
        [1, 0]
    );
    let open = JobFilter {
        group,
        ..JobFilter::default()
    };
    assert_eq!(listed(open), [0]);
    let parent = Some(ids[3].clone());
    assert_eq!(
        listed(JobFilter {
            parent: parent.clone(),
            ..all()
        }),
        [5]
    );
    let open = JobFilter {
        parent,
        ..JobFilter::default()
    };
    assert_eq!(listed(open), [5]);
    let first = JobFilter { limit: 2, ..all() };
    let page = ledger.jobs(&first).expect("read");
    assert_eq!(listed(first), [5, 4]);
    let before = Some(page[1].number);
    assert_eq!(
        listed(JobFilter {
            before,
            limit: 3,
            ..all()
        }),
        [3, 2, 1]
    );
    // A number is not given out again, so a listing that goes on has each once.
    write(
        &ledger,
        vec![
            job_ended(&ids[4], JobEnd::Completed),
            job_ended(&ids[5], JobEnd::Completed),
            job_deleted(&ids[5]),
        ],
    );
    let next = JobId::new();
    write(&ledger, vec![job_created(&next, None)]);
    let next = ledger.job(&next).expect("read").expect("a job");
    assert!(next.number > page[0].number);
}

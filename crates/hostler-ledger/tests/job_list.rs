//! Listings of jobs.

mod common;

use common::*;
use hostler_ledger::{Change, JobEnd, JobFilter, JobId, JobOrigin, Ledger, Seq, Which};

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
    let id = ids[4].as_str();
    for starts in [&id[..2], &id[..6], id] {
        let found = ledger.jobs(&JobFilter {
            starts: Some(starts.to_owned()),
            ..all()
        });
        let found: Vec<JobId> = found.expect("read").into_iter().map(|job| job.id).collect();
        let wanted = ids
            .iter()
            .rev()
            .filter(|id| id.as_str().starts_with(starts));
        assert_eq!(found, wanted.cloned().collect::<Vec<_>>(), "{starts}");
    }
    let nobodys = Some("j-~".to_owned());
    assert!(
        listed(JobFilter {
            starts: nobodys,
            ..all()
        })
        .is_empty()
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
    let next = ledger.job_summary(&next).expect("read").expect("a job");
    assert!(next.number > page[0].number);
}

#[test]
fn where_a_job_comes_from_is_kept_and_the_job_of_a_run_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = open(dir.path());
    let parent = JobId::new();
    write(&ledger, vec![job_created(&parent, None)]);
    let origins = [
        JobOrigin::Asked,
        JobOrigin::Run(1),
        JobOrigin::Run(2),
        JobOrigin::Retry(parent.clone()),
        JobOrigin::Schedule(scheduled("nightly")),
    ];
    for origin in &origins {
        let id = JobId::new();
        let mut change = job_created(&id, Some(&parent));
        if let Change::JobCreated { job, .. } = &mut change {
            job.origin = origin.clone();
        }
        write(&ledger, vec![change]);
        let job = ledger.job_summary(&id).expect("read").expect("a job");
        assert_eq!(&job.origin, origin);
        if let JobOrigin::Run(run) = origin {
            let found = ledger.job_of_run(&parent, *run).expect("read");
            assert_eq!(found.map(|job| job.id), Some(id));
        }
    }
    assert_eq!(ledger.job_of_run(&parent, 3).expect("read"), None);
    assert_eq!(ledger.job_of_run(&JobId::new(), 1).expect("read"), None);
}

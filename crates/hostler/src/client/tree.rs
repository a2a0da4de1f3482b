//! Processes drawn as the tree that they are.

use std::collections::{HashMap, HashSet};

use super::api::Living;

/// The processes in the order of a tree, each with what is drawn before it. Roots are those whose parent is not among them;
/// parents that go round in a circle (for a pid was given out again between two looks) are roots too.
pub(crate) fn draw(all: &[Living]) -> Vec<(String, &Living)> {
    let pids: HashSet<u32> = all.iter().map(|one| one.pid).collect();
    let mut children: HashMap<u32, Vec<&Living>> = HashMap::new();
    let mut roots = Vec::new();
    for one in all {
        if one.parent != one.pid && pids.contains(&one.parent) {
            children.entry(one.parent).or_default().push(one);
        } else {
            roots.push(one);
        }
    }
    for list in children.values_mut() {
        list.sort_by_key(|one| (one.start_time, one.pid));
    }
    roots.sort_by_key(|one| (one.start_time, one.pid));
    let mut seen = HashSet::new();
    let mut out = Vec::new();
    let circles = all.iter();
    for root in roots.into_iter().chain(circles) {
        walk(root, &children, &mut seen, &mut out);
    }
    out
}

/// Without recursion: a chain of processes may be as deep as the kernel's pids.
fn walk<'a>(
    root: &'a Living,
    children: &HashMap<u32, Vec<&'a Living>>,
    seen: &mut HashSet<u32>,
    out: &mut Vec<(String, &'a Living)>,
) {
    // What is drawn before it, and before what is under it.
    let mut todo = vec![(root, String::new(), String::new())];
    while let Some((one, before, under)) = todo.pop() {
        if !seen.insert(one.pid) {
            continue;
        }
        out.push((before, one));
        let list = children.get(&one.pid).map_or(&[][..], Vec::as_slice);
        for (number, child) in list.iter().enumerate().rev() {
            let last = number + 1 == list.len();
            let (branch, bar) = if last {
                ("└─ ", "   ")
            } else {
                ("├─ ", "│  ")
            };
            todo.push((*child, format!("{under}{branch}"), format!("{under}{bar}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn drawn(pairs: &[(u32, u32)]) -> Vec<String> {
        let all: Vec<Living> = pairs
            .iter()
            .map(|(pid, parent)| {
                serde_json::from_value(
                    json!({"pid": pid, "parent": parent, "start_time": pid, "session": "s"}),
                )
                .expect("a process")
            })
            .collect();
        draw(&all)
            .iter()
            .map(|(before, one)| format!("{before}{}", one.pid))
            .collect()
    }

    #[test]
    fn branches() {
        assert_eq!(
            drawn(&[(9, 1), (5, 3), (3, 1), (4, 3), (6, 4), (7, 5)]),
            ["3", "├─ 4", "│  └─ 6", "└─ 5", "   └─ 7", "9"]
        );
        assert!(drawn(&[]).is_empty());
    }

    #[test]
    fn circles_and_chains() {
        assert_eq!(drawn(&[(2, 3), (3, 2), (8, 8)]), ["8", "2", "└─ 3"]);
        let chain: Vec<(u32, u32)> = (1..5000).map(|pid| (pid, pid - 1)).collect();
        assert_eq!(drawn(&chain).len(), 4999);
    }
}

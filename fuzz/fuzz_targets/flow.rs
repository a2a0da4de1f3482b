//! A flow: read and drawn, or refused with lines and reasons.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match hostler_job::check(text) {
        Ok(flow) => assert!(!hostler_job::mermaid(&flow).is_empty()),
        Err(problems) => {
            assert!(!problems.is_empty());
            assert!(problems.iter().all(|problem| !problem.message.contains('\n')));
        }
    }
});

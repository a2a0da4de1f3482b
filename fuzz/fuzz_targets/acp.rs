//! A line of an agent: taken or refused, and replaced in it is the session's id alone.
#![no_main]

use hostler_agent::rpc::{Incoming, UpdatePath, parse, respell, with_session_id};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|line: &[u8]| {
    let short = UpdatePath::new("ag", "conv").params(line);
    let message = parse(line);
    if let Some(short) = &short {
        // The short way takes nothing that the long one would not, and gives the same.
        let Ok(Incoming::Notification { params: Some(params), .. }) = &message else {
            panic!("not a notification");
        };
        if let Some(long) = respell(params.get(), "ag", "conv") {
            assert_eq!(short.get(), long.get());
        }
    }
    let params = match message {
        Ok(Incoming::Request { params, .. } | Incoming::Notification { params, .. }) => params,
        Ok(Incoming::Response { answer, .. }) => Some(answer.unwrap_or_else(|error| error)),
        Err(_) => None,
    };
    let Some(params) = params else { return };
    if let Ok(new) = with_session_id(params.get(), "con\"v") {
        let new: Value = serde_json::from_str(new.get()).expect("JSON");
        assert_eq!(new["sessionId"], "con\"v");
    }
});

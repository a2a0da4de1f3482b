//! A frame of a client of `/acp`.
#![no_main]
#![allow(dead_code)]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/hostler-gateway/src/acp/message.rs"]
mod message;

fuzz_target!(|text: &str| {
    if let Err(malformed) = message::parse(text) {
        let answer = malformed.answer();
        serde_json::from_str::<serde_json::Value>(&answer).expect("JSON");
    }
});

//! A frame between host, zygote and keeper: what is taken is written again as it was meant.
#![no_main]

use hostler_keeper::message::{Event, Message, Reply, Request, ZygoteReply, ZygoteRequest};
use hostler_keeper::wire::{Header, Writer};
use libfuzzer_sys::fuzz_target;

fn again<'a, T: Message<'a>>(kind: u8, body: &'a [u8]) {
    if let Ok(message) = T::decode(kind, body) {
        let mut writer = Writer::new();
        assert_eq!(message.encode(&mut writer), kind);
    }
}

fuzz_target!(|frame: &[u8]| {
    let Ok((header, body)) = Header::decode(frame) else {
        return;
    };
    again::<Request<'_>>(header.kind, body);
    again::<Reply>(header.kind, body);
    again::<Event>(header.kind, body);
    again::<ZygoteRequest>(header.kind, body);
    again::<ZygoteReply>(header.kind, body);
});

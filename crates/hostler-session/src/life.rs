//! stub
pub(crate) fn stored_name(_: &crate::ResourceId, _: &str) -> Vec<u8> {
    unimplemented!()
}

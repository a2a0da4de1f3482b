//! stub
pub(crate) async fn open(
    _: &std::sync::Arc<crate::sessions::Host>,
    _: crate::SessionOptions,
    _: crate::By,
) -> crate::Result<crate::Session> {
    unimplemented!()
}

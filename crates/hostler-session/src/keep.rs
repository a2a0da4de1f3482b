//! stub
use std::sync::Arc;
pub(crate) async fn keep(
    _: &Arc<crate::sessions::Host>,
    _: &crate::Session,
    _: &crate::ResourceId,
    _: (&str, crate::Policy),
    _: crate::By,
) -> crate::Result<crate::Session> {
    unimplemented!()
}

//! stub
pub(crate) fn prepare(_: &std::path::Path) -> crate::Result<()> {
    unimplemented!()
}

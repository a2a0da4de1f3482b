pub(crate) fn be_stranger() {}

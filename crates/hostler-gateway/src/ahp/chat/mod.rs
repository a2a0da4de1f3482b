//! Chats: conversations as clients see them.

pub(super) mod view;

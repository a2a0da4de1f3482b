//! Resources: the files below the sessions' working directories, for clients.
//!
//! Only `file:` URIs are served, and of those only what is at or below the working directory of an open session. Paths are resolved
//! with their links, which says whether they lead there, and what they lead to is opened from the root down with no link followed any
//! more ([`hostler_agent::served::files`]); all that is done is done on descriptors, so what is exchanged in between makes it fail, and
//! never leads elsewhere. Pipes, devices and the kernel's own files are never opened.
//!
//! Whoever has the host's token can start programs, and so read and write all that its user can; the roots keep clients from doing by
//! mistake what nobody asked for. `resourceRequest` therefore grants what is below a root and refuses the rest: there is nobody to ask.
//!
//! Writers of this host take turns ([`write`]), so that what `ifMatch` promised holds among them; what other programs write in the moment
//! between the look and the exchange cannot be told.

mod copy;
mod etag;
mod list;
pub(super) mod methods;
mod path;
mod read;
#[cfg(test)]
mod tests;
mod tree;
pub(super) mod watch;
mod write;

pub(crate) use copy::{copy, rename};
pub(crate) use list::list;
pub(crate) use path::request;
pub(crate) use read::{read, resolve};
pub(crate) use write::{delete, mkdir, write};

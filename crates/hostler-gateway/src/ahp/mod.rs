//! AHP.
mod terminal;

//! Terminals.
mod model;
mod modes;
mod osc;
mod screen;
#[cfg(test)]
mod tests;
mod told;

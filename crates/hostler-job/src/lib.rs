//! Jobs: flows of steps over commands and agents; how they are written, and the engine that runs them.
//!
//! # Theory of operation
//!
//! A flow is a file of YAML. It is read in two passes, and neither stops at the first thing that is wrong: the first knows the fields
//! and the types ([`flow`] is what comes of it), the second what they say of one another (steps that there are, outputs that they
//! have, variables of expressions, cycles). Each problem has the place in the file where it stands. What was found right is kept as
//! it was written: [`flow::Flow`] is always read from its text, never stored in another form, so there is one form to understand.
//!
//! * **What a step waits for** follows from what it is given: a reference to a step's output is an arrow of the graph, as is `after`.
//!   The graph has no cycles; loops are exit rules, and what an earlier iteration gave is `last`, which waits for nothing.
//! * **Nothing of a flow becomes code.** Inputs are variables of a shell's environment, or whole arguments of a program; expressions
//!   are CEL, which has no effects and, as it is bounded here, ends soon. An expression that cannot be evaluated is an error, never false.
//! * **A job has one task and one way out.** [`Jobs`] is all jobs of a host, a [`Job`] a handle. Every end, by whatever way, comes to one
//!   function, which writes it with all that is open of the job in one transaction; then all that it held goes, which the close of its
//!   session proves.
//! * **Rows are enough.** What is done next follows from the rows of the runs in the ledger and what followed each: so a job goes on in the
//!   next host ([`Jobs::recover`]), and a test can play one without starting anything.
//! * **Agents are leased** from a pool that all jobs share: one job's end does not touch another's agent.
//! * **Bounds.** Size, nesting and aliases of a file, and length and nesting of expressions are bounded, so that whatever is given is
//!   read or refused, soon.
//!
//! ```
//! let flow = hostler_job::check("
//! name: hello
//! inputs:
//!   who: { type: string, default: world }
//! steps:
//!   greet:
//!     inputs: { who: $job.who }
//!     command: 'echo \"hello $who\"'
//! ").expect("it is right");
//! assert_eq!(flow.steps.len(), 1);
//!
//! let problems = hostler_job::check("name: x\nsteps:\n  a: { command: make, after: b }\n").expect_err("it is not");
//! assert_eq!(problems[0].to_string(), "3:30: steps.a.after: there is no step `b`; there is: a");
//! ```

#![forbid(unsafe_code)]

mod check;
mod engine;
pub mod flow;
mod given;
mod mermaid;
mod problem;
mod read;
mod schema;
mod yaml;

pub use check::{Loaded, Wrong, check, load, load_text};
pub use engine::*;
pub use given::{given, input_from_text};
pub use mermaid::mermaid;
pub use problem::{At, Code, Place, Problem};
pub use schema::schema;
pub use yaml::as_json;

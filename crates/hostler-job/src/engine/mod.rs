//! The engine: jobs that run.

mod actor;
mod end;
mod error;
mod execute;
mod job;
mod jobs;
mod label;
mod make;
mod new;
mod progress;
mod recover;
mod schedule;

pub use error::{Error, Result, StepError};
pub use job::{Job, JobStatus};
pub use jobs::{Jobs, JobsOptions};
pub use label::scheduled;
pub use new::{FlowSource, NewJob};
pub use schedule::{
    Clock, NewSchedule, ScheduleChange, ScheduleOptions, Scheduled, ScheduledFlow, Schedules,
    machine_zone,
};

//! What a session is allowed.

use std::time::Duration;

use hostler_session::{Containment, OnDisconnect, OnHostExit};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::duration;
use crate::error::ApiError;

/// What a session is allowed, and when it ends without being asked. Times are seconds; `null` is never, or no limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Policy {
    /// Close after so long without a client's input, a foreground process or a busy resource.
    pub idle: Option<f64>,
    /// Close at this age.
    pub max_age: Option<f64>,
    /// Close when this hour of the day (local time, 0 to 23) comes.
    pub daily_reset: Option<u8>,
    /// Close so long after the last client left.
    pub detached_grace: Option<f64>,
    /// When the last client leaves: `close` or `detach`.
    #[schema(value_type = String)]
    pub on_disconnect: OnDisconnect,
    /// When the host dies: `kill` or `keep`.
    #[schema(value_type = String)]
    pub on_host_exit: OnHostExit,
    /// How long a kept session waits for the next host.
    pub keep_for: f64,
    /// Between SIGTERM and SIGKILL.
    pub grace: f64,
    /// How its processes are held together: `auto`, `tree`, `cgroup` or `pidns`.
    #[schema(value_type = String)]
    pub contain: Containment,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Number of processes.
    pub pids: Option<u64>,
    /// Number of CPUs.
    pub cpu: Option<f64>,
    /// For so long running background processes hold an automatic end off.
    pub background_holds: f64,
    /// How many background processes and terminals may run at once.
    pub max_background: Option<u32>,
}

impl From<&hostler_session::Policy> for Policy {
    fn from(policy: &hostler_session::Policy) -> Self {
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        let limits = &policy.limits;
        Self {
            idle: seconds(policy.idle),
            max_age: seconds(policy.max_age),
            daily_reset: policy.daily_reset,
            detached_grace: seconds(policy.detached_grace),
            on_disconnect: policy.on_disconnect,
            on_host_exit: policy.on_host_exit,
            keep_for: policy.keep_for.as_secs_f64(),
            grace: policy.grace.as_secs_f64(),
            contain: policy.contain,
            memory: limits.memory,
            pids: limits.pids,
            cpu: limits.cpu_millis.map(|millis| millis as f64 / 1000.0),
            background_holds: policy.background_holds.as_secs_f64(),
            max_background: Some(limits.background).filter(|most| *most != 0),
        }
    }
}

/// What of a policy is to be different. What is not named stays; 0 is never, or no limit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyChange {
    /// Close after so long without a client's input, a foreground process or a busy resource.
    pub idle: Option<f64>,
    /// Close at this age.
    pub max_age: Option<f64>,
    /// Close when this hour of the day (local time, 0 to 23) comes; -1 for never.
    pub daily_reset: Option<i8>,
    /// Close so long after the last client left.
    pub detached_grace: Option<f64>,
    /// When the last client leaves: `close` or `detach`.
    #[schema(value_type = Option<String>)]
    pub on_disconnect: Option<OnDisconnect>,
    /// When the host dies: `kill` or `keep`.
    #[schema(value_type = Option<String>)]
    pub on_host_exit: Option<OnHostExit>,
    /// How long a kept session waits for the next host.
    pub keep_for: Option<f64>,
    /// Between SIGTERM and SIGKILL.
    pub grace: Option<f64>,
    /// How its processes are held together: `auto`, `tree`, `cgroup` or `pidns`. Not for a session that is open.
    #[schema(value_type = Option<String>)]
    pub contain: Option<Containment>,
    /// Memory in bytes. Not for a session that is open.
    pub memory: Option<u64>,
    /// Number of processes. Not for a session that is open.
    pub pids: Option<u64>,
    /// Number of CPUs. Not for a session that is open.
    pub cpu: Option<f64>,
    /// For so long running background processes hold an automatic end off.
    pub background_holds: Option<f64>,
    /// How many background processes and terminals may run at once.
    pub max_background: Option<u32>,
}

impl PolicyChange {
    /// The policy with this changed.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`](crate::ErrorCode::BadRequest) with the key, the value and what is allowed.
    pub fn over(
        &self,
        base: &hostler_session::Policy,
    ) -> Result<hostler_session::Policy, ApiError> {
        let mut policy = base.clone();
        for (key, given, to) in [
            ("idle", self.idle, &mut policy.idle),
            ("max_age", self.max_age, &mut policy.max_age),
            (
                "detached_grace",
                self.detached_grace,
                &mut policy.detached_grace,
            ),
        ] {
            if let Some(seconds) = given {
                *to = Some(duration(key, seconds)?).filter(|time| !time.is_zero());
            }
        }
        for (key, given, to) in [
            ("keep_for", self.keep_for, &mut policy.keep_for),
            ("grace", self.grace, &mut policy.grace),
            (
                "background_holds",
                self.background_holds,
                &mut policy.background_holds,
            ),
        ] {
            if let Some(seconds) = given {
                *to = duration(key, seconds)?;
            }
        }
        match self.daily_reset {
            None => {}
            Some(-1) => policy.daily_reset = None,
            Some(hour @ 0..=23) => policy.daily_reset = Some(hour.cast_unsigned()),
            Some(hour) => {
                let message =
                    format!("`daily_reset`: {hour} is not an hour: 0 to 23, or -1 for never");
                return Err(ApiError::bad(message));
            }
        }
        policy.on_disconnect = self.on_disconnect.unwrap_or(policy.on_disconnect);
        policy.on_host_exit = self.on_host_exit.unwrap_or(policy.on_host_exit);
        policy.contain = self.contain.unwrap_or(policy.contain);
        let limits = &mut policy.limits;
        if let Some(memory) = self.memory {
            limits.memory = Some(memory).filter(|memory| *memory != 0);
        }
        if let Some(pids) = self.pids {
            limits.pids = Some(pids).filter(|pids| *pids != 0);
        }
        if let Some(cpu) = self.cpu {
            if !(0.0..=1e6).contains(&cpu) || (cpu > 0.0 && cpu < 0.001) {
                return Err(ApiError::bad(format!(
                    "`cpu`: {cpu} is not a number of CPUs, such as 1.5"
                )));
            }
            limits.cpu_millis = Some((cpu * 1000.0).round() as u64).filter(|millis| *millis != 0);
        }
        limits.background = self.max_background.unwrap_or(limits.background);
        Ok(policy)
    }

    /// Refuses what cannot be changed once a session is open.
    pub(crate) fn for_open_session(&self) -> Result<(), ApiError> {
        for (key, given) in [
            ("contain", self.contain.is_some()),
            ("memory", self.memory.is_some()),
            ("pids", self.pids.is_some()),
            ("cpu", self.cpu.is_some()),
        ] {
            if given {
                return Err(ApiError::bad(format!(
                    "`{key}` is fixed when the session is opened"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(json: &str) -> Result<hostler_session::Policy, ApiError> {
        let change: PolicyChange = serde_json::from_str(json).expect(json);
        change.over(&hostler_session::Policy::default())
    }

    #[test]
    fn what_is_not_named_stays_and_zero_is_none() {
        let default = hostler_session::Policy::default();
        assert_eq!(change("{}").expect("a policy"), default);
        let policy =
            change(r#"{"idle":1.5,"cpu":0.5,"memory":0,"daily_reset":4}"#).expect("a policy");
        assert_eq!(policy.idle, Some(Duration::from_millis(1500)));
        assert_eq!(policy.limits.cpu_millis, Some(500));
        assert_eq!(policy.limits.memory, None);
        assert_eq!(policy.daily_reset, Some(4));
        assert_eq!(policy.grace, default.grace);
        assert_eq!(change(r#"{"idle":0}"#).expect("a policy").idle, None);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (json, key) in [
            (r#"{"idle":-1}"#, "idle"),
            (r#"{"grace":1e300}"#, "grace"),
            (r#"{"cpu":-0.5}"#, "cpu"),
            (r#"{"daily_reset":24}"#, "daily_reset"),
        ] {
            let error = change(json).expect_err(json);
            assert!(error.message.contains(key), "{error}");
        }
        assert!(serde_json::from_str::<PolicyChange>(r#"{"idel":1}"#).is_err());
    }
}

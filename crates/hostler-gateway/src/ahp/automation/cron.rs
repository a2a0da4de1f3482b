//! The expressions of the protocol: five fields, without what other crons add (`AutomationSchedule` in `ahp_types::state`).

/// Minute, hour, day of the month, month, day of the week: what stands for numbers there, and which numbers there are.
const FIELDS: [(&str, &[&str], u32, u32); 5] = [
    ("minute", &[], 0, 59),
    ("hour", &[], 0, 23),
    ("day of the month", &[], 1, 31),
    ("month", &MONTHS, 1, 12),
    ("day of the week", &DAYS, 0, 7),
];
const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Looks whether an expression is one of the protocol's. What is wrong with it, in one line.
pub(super) fn check(expression: &str) -> Result<(), String> {
    let shown: String = expression.chars().take(64).collect();
    let fields: Vec<&str> = expression.split_ascii_whitespace().collect();
    if fields.len() != FIELDS.len() {
        let count = fields.len();
        return Err(format!(
            "the schedule `{shown}`: five fields are wanted, and there are {count}"
        ));
    }
    for (text, field) in fields.into_iter().zip(&FIELDS) {
        if !text.split(',').all(|one| is_item(one, field)) {
            let text: String = text.chars().take(64).collect();
            let name = field.0;
            return Err(format!("the schedule `{shown}`: `{text}` is no {name}"));
        }
    }
    Ok(())
}

/// `*`, a value, a range; the first and the last with a step.
fn is_item(text: &str, field: &(&str, &[&str], u32, u32)) -> bool {
    let value = |text: &str| {
        let named = field
            .1
            .iter()
            .position(|name| text.eq_ignore_ascii_case(name));
        let number = || {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u32>().ok()).flatten()
        };
        let named = named.and_then(|at| u32::try_from(at).ok());
        let value = named.map(|at| at + field.2).or_else(number)?;
        (field.2..=field.3).contains(&value).then_some(value)
    };
    let (of, step) = match text.split_once('/') {
        Some((of, step)) => (of, Some(step)),
        None => (text, None),
    };
    let good_step = step.is_none_or(|step| {
        let digits = step.bytes().all(|byte| byte.is_ascii_digit());
        digits && step.parse::<u32>().is_ok_and(|step| step > 0)
    });
    let range = match of.split_once('-') {
        _ if of == "*" => true,
        Some((from, to)) => {
            matches!((value(from), value(to)), (Some(from), Some(to)) if from <= to)
        }
        None => step.is_none() && value(of).is_some(),
    };
    good_step && range
}

/// An expression as five fields: what the names stand for is written out; `None` for what is never due by itself.
pub(super) fn written_out(cron: &str) -> Option<String> {
    let fields = match cron.trim().to_ascii_lowercase().as_str() {
        "@never" => return None,
        "@hourly" => "0 * * * *",
        "@daily" | "@midnight" => "0 0 * * *",
        "@weekly" => "0 0 * * 0",
        "@monthly" => "0 0 1 * *",
        "@yearly" | "@annually" => "0 0 1 1 *",
        _ => cron,
    };
    Some(fields.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_of_the_protocol_are_taken_and_no_others() {
        for good in [
            "* * * * *",
            "*/15 0-23/2 1,15 JAN-mar 0-7",
            "0  9 * * Mon,wed,5",
            "59 23 31 12 7",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "* * * *",
            "* * * * * *",
            "@daily",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * L * *",
            "* * 15W * *",
            "* * * * mon#1",
            "* * ? * *",
            "*/0 * * * *",
            "5/15 * * * *",
            "+5 * * * *",
            "9-5 * * * *",
            "1, * * * *",
            "* * * foo *",
            "* * * * 8",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert_eq!(written_out("@Hourly").as_deref(), Some("0 * * * *"));
        assert_eq!(written_out("5 * * * *").as_deref(), Some("5 * * * *"));
        assert_eq!(written_out("@never"), None);
    }
}

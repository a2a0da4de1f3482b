//! What is wrong with a flow, by itself and with those that it uses.

use std::path::Path;

use hostler_job::{Code, check, load};

use crate::schema_takes;

/// Each flow, what is wrong with it, and where; and whether the schema can know it too.
#[test]
fn what_is_wrong_is_told_with_line_and_reason() {
    let table: &[(&str, Code, &str, bool)] = &[
        (
            "name: x\nsteps: {a: {command: ls",
            Code::Syntax,
            "not YAML",
            false,
        ),
        (
            "name: x",
            Code::MissingField,
            "1:1: `steps` is missing",
            true,
        ),
        (
            "steps: {a: {sleep: 1}}",
            Code::MissingField,
            "1:1: `name` is missing",
            true,
        ),
        (
            "name: x\nsteps: {}",
            Code::BadValue,
            "2:8: steps: a flow has at least one step",
            true,
        ),
        (
            "name: x\nsteps: []",
            Code::WrongType,
            "2:8: steps: a mapping is expected, and this is a list",
            true,
        ),
        (
            "name: a b\nsteps: {a: {sleep: 1}}",
            Code::BadValue,
            "1:7: name: a flow's name",
            true,
        ),
        (
            "name: x\nsteps:\n  a: {sleep: 1}\n  a: {sleep: 2}",
            Code::Duplicate,
            "4:3: `a` stands here for the second time",
            false,
        ),
        (
            "name: x\nsteps:\n  A: {sleep: 1}",
            Code::BadValue,
            "3:3: steps.A: `A` is no name",
            true,
        ),
        (
            "name: x\nsteps:\n  a: {sleep: 1, afer: b}",
            Code::UnknownField,
            "3:17: steps.a.afer: there is no field `afer` here; did you mean `after`?",
            true,
        ),
        (
            "name: x\nsteps:\n  a: {after: a}",
            Code::MissingField,
            "nothing says what does it",
            true,
        ),
        (
            "name: x\nsteps:\n  a: {sleep: 1, command: ls}",
            Code::Conflict,
            "`command` and `sleep` exclude one another",
            true,
        ),
        (
            "name: x\nsteps:\n  a: {sleep: soon}",
            Code::BadValue,
            "3:14: steps.a.sleep: `soon` is no time: a number with ms",
            true,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, limits: {memory: much}}",
            Code::BadValue,
            "`much` is no size",
            true,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, limits: {time: 0}}",
            Code::BadValue,
            "longer than nothing",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, after: b}",
            Code::UnknownStep,
            "3:27: steps.a.after: there is no step `b`; there is: a",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, after: b}\n  b: {command: ls, after: a}",
            Code::Cycle,
            "a waits for b waits for a",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, after: a}",
            Code::Cycle,
            "a waits for a",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, inputs: {x: b.stdout}}\n  b: {command: ls, inputs: {x: a.stdout}}",
            Code::Cycle,
            "what an earlier iteration gave is `last`",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, inputs: {x: c.stdout}}",
            Code::UnknownStep,
            "there is no step `c`",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls}\n  b: {command: ls, inputs: {x: a.text}}",
            Code::UnknownOutput,
            "4:32: steps.b.inputs.x: step `a`: no output `text`; there is: exit_code, stdout",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, inputs: {x: $job.y}}",
            Code::UnknownInput,
            "the flow has no input `y`",
            false,
        ),
        (
            "name: x\ninputs: {o: {fields: {a: string}}}\nsteps:\n  a: {command: ls, inputs: {x: $job.o.b}}",
            Code::UnknownInput,
            "the object has no field `b`; there is: a",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, inputs: {x: hello}}",
            Code::BadValue,
            "`hello` refers to nothing",
            true,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, inputs: {x: {optional: true}}}",
            Code::MissingField,
            "one of `from`, `any`, `last` and `value` is missing",
            true,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, inputs: {x: $item}}",
            Code::BadValue,
            "`$item` is for steps with `for_each`",
            false,
        ),
        (
            "name: x\ninputs: {n: integer}\nsteps:\n  a: {command: ls, for_each: $job.n}",
            Code::WrongType,
            "a list is wanted, and `$job.n` is an integer",
            false,
        ),
        (
            "name: x\ninputs: {n: {type: integer, default: two}}\nsteps:\n  a: {sleep: 1}",
            Code::WrongType,
            "2:38: inputs.n.default: an integer is wanted, and this is the string \"two\"",
            false,
        ),
        (
            "name: x\ninputs: {n: whole}\nsteps:\n  a: {sleep: 1}",
            Code::BadValue,
            "`whole` is not allowed: any, string",
            true,
        ),
        (
            "name: x\ninputs: {n: {items: string, type: object}}\nsteps:\n  a: {sleep: 1}",
            Code::Conflict,
            "`items` is for the type `array`",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {command: {argv: [ls, '${dir}']}}",
            Code::UnknownInput,
            "`${dir}`: the step `a` has no input `dir`",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {command: {argv: [ls, '${dir']}}",
            Code::BadValue,
            "is not closed",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {command: {run: ls, argv: [ls]}}",
            Code::Conflict,
            "`run` and `argv` exclude one another",
            true,
        ),
        (
            "name: x\nsteps:\n  a: {command: ''}",
            Code::BadValue,
            "a command is expected, and this is empty",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {command: {argv: []}}",
            Code::BadValue,
            "it begins with a program",
            true,
        ),
        (
            "name: x\nsteps:\n  a: {command: [ls]}",
            Code::WrongType,
            "a text is expected, and this is a list",
            true,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, when: 1 +}",
            Code::BadExpression,
            "3:26: steps.a.when: at its character",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, when: job.debug}",
            Code::BadExpression,
            "`job` has no `debug`",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls}\n  b: {command: ls, when: steps.a.state == ''}",
            Code::BadExpression,
            "the step does not wait for `a`",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls}\n  b: {command: ls, when: \"steps['a'].state == ''\"}",
            Code::BadExpression,
            "the step does not wait for `a`",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, exits: [{when: outputs.text == '', action: abandon}]}",
            Code::BadExpression,
            "`outputs` has no `text`",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, exits: [{when: 'true', action: stop}]}",
            Code::BadValue,
            "`stop` is not allowed: advance, loop, escalate, abandon",
            true,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, exits: [{when: 'true', action: loop}]}",
            Code::MissingField,
            "`target` is missing",
            true,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, exits: [{when: 'true', action: loop, target: z}]}",
            Code::UnknownStep,
            "there is no step `z`",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, exits: [{when: 'true', action: loop, target: b}]}\n  b: {command: ls, after: a}",
            Code::BadValue,
            "`a` does not wait for it",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, exits: [{action: loop, target: a}]}",
            Code::MissingField,
            "a loop needs `when`",
            true,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, exits: [{action: advance, target: a}]}",
            Code::Conflict,
            "`target` is for the action `loop`",
            true,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, exits: [{action: advance}, {action: abandon}]}",
            Code::Conflict,
            "never reached",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, exits: [{when: 'true', action: loop, target: a, max_iterations: 0}]}",
            Code::BadValue,
            "0 is not allowed: from 1 to 10000",
            true,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, outputs: {x: string}}",
            Code::Conflict,
            "`stdout: json` says that it does",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {command: {run: ls, stdout: json}, outputs: {stdout: string}}",
            Code::Conflict,
            "gives a `stdout` of its own",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {sleep: 1, limits: {turns: 2}}",
            Code::Conflict,
            "`turns` is for agents",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, session: s}",
            Code::Conflict,
            "only steps of an agent have a conversation",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {agent: {name: b, prompt: c}, session: s}\n  b: {agent: {name: c, prompt: c}, session: s}",
            Code::Conflict,
            "and this is another",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {agent: {name: b}}",
            Code::MissingField,
            "`prompt` is missing",
            true,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, retry: many}",
            Code::WrongType,
            "a whole number is expected, and this is a text",
            true,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, retry: {times: 2, factor: 0.5}}",
            Code::BadValue,
            "a factor from 1 to 100",
            true,
        ),
        (
            "name: x\nsteps:\n  a: {command: ls, on_error: ignore}",
            Code::BadValue,
            "`ignore` is not allowed: fail, continue, pause",
            true,
        ),
        (
            "name: x\nsteps:\n  a: {sleep: 1}\noutputs: {x: a.y}",
            Code::UnknownOutput,
            "step `a`: no output `y`",
            false,
        ),
        (
            "name: x\nsteps:\n  a: {sleep: 1}\noutputs: {x: {last: a.y}}",
            Code::Conflict,
            "`last` is for inputs of steps",
            false,
        ),
    ];
    for (text, code, words, by_schema) in table {
        let problems = check(text).expect_err(text);
        let found = problems
            .iter()
            .find(|problem| problem.code == *code && problem.to_string().contains(words));
        assert!(found.is_some(), "{text}\n{words}\n{problems:#?}");
        assert!(
            problems
                .iter()
                .all(|problem| !problem.message.contains('\n')),
            "{problems:?}"
        );
        if *by_schema {
            schema_takes(text).expect_err(text);
        }
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once_and_in_order() {
    let text = "name: x\nwhat: 1\ninputs:\n  n: whole\nsteps:\n  a:\n    command: ls\n    after: nobody\n    retry: many\n  b:\n    inputs: { x: a.text, y: $job.z }\n    agent: { name: shell }\n  c:\n    sleep: soon\n    when: '('\n  d: { command: ls, after: e }\n  e: { command: ls, after: d }\n";
    let problems = check(text).expect_err("wrong");
    let places: Vec<(usize, Code)> = problems
        .iter()
        .map(|problem| (problem.place.line, problem.code))
        .collect();
    let should = [
        (2, Code::UnknownField),
        (4, Code::BadValue),
        (8, Code::UnknownStep),
        (9, Code::WrongType),
        (12, Code::MissingField),
        (14, Code::BadValue),
        (15, Code::BadExpression),
        (17, Code::Cycle),
    ];
    assert_eq!(places, should, "{problems:#?}");
}

#[test]
fn one_wrong_name_is_one_problem() {
    let text = "name: x\nsteps:\n  build: { command: make }\n  test:\n    after: biuld\n    command: make test\n    when: steps.build.state == 'completed'\n    exits: [{ when: outputs.exit_code != 0, action: loop, target: build }]\n";
    let problems = check(text).expect_err("wrong");
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let should = "5:12: steps.test.after: there is no step `biuld`; did you mean `build`?";
    assert_eq!(lines, [should], "what follows from it is not told");
}

#[test]
fn sub_flows_are_checked_with_what_they_are_given() {
    let directory = tempfile::tempdir().expect("a directory");
    let write =
        |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("a file");
    write(
        "sub.yaml",
        "name: sub\ninputs: {who: string, often: {type: integer, default: 1}}\nsteps: {a: {command: ls}}\noutputs: {said: a.stdout}\n",
    );
    write(
        "bad.yaml",
        "name: bad\nsteps: {a: {command: ls, after: z}}\n",
    );
    write("loop.yaml", "name: loop\nsteps: {a: {flow: loop.yaml}}\n");
    let problems = |flow: &str| -> Vec<String> {
        write("main.yaml", flow);
        let wrong = load(&directory.path().join("main.yaml")).expect_err(flow);
        let line = |wrong: &hostler_job::Wrong| {
            let file = wrong
                .file
                .file_name()
                .expect("a name")
                .display()
                .to_string();
            format!("{file}:{}", wrong.problem)
        };
        wrong.iter().map(line).collect()
    };
    assert_eq!(
        problems("name: x\nsteps:\n  a: {flow: sub.yaml}\n  b: {sleep: 1, inputs: {x: a.sad}}\n"),
        [
            "main.yaml:3:13: steps.a.flow: the flow `sub` needs the input `who` (a string)",
            "main.yaml:4:29: steps.b.inputs.x: step `a`: no output `sad`; did you mean `said`?"
        ]
    );
    assert_eq!(
        problems(
            "name: x\nsteps:\n  a: {flow: sub.yaml, inputs: {who: {value: 1}, whom: {value: a}}}\n"
        ),
        [
            "main.yaml:3:32: steps.a.inputs.who: for the flow `sub`: a string is wanted, and this is the number 1",
            "main.yaml:3:49: steps.a.inputs.whom: the flow `sub` has no input `whom`; did you mean `who`?"
        ]
    );
    assert_eq!(
        problems(
            "name: x\ninputs: {n: integer}\nsteps:\n  a: {flow: sub.yaml, inputs: {who: $job.n}}\n"
        ),
        [
            "main.yaml:4:32: steps.a.inputs.who: for the flow `sub`: a string is wanted, and this is an integer"
        ]
    );
    assert_eq!(
        problems("name: x\nsteps:\n  a: {flow: bad.yaml}\n"),
        [
            "bad.yaml:2:33: steps.a.after: there is no step `z`; there is: a",
            "main.yaml:3:13: steps.a.flow: `bad.yaml`: this flow is wrong itself"
        ]
    );
    let missing = problems("name: x\nsteps:\n  a: {flow: none.yaml}\n");
    assert!(
        missing.len() == 1 && missing[0].contains("there is no file"),
        "{missing:?}"
    );
    let own = load(&directory.path().join("loop.yaml")).expect_err("a flow that uses itself");
    assert!(
        own[0].problem.message.contains("cannot use itself"),
        "{own:?}"
    );
    let gone = load(Path::new("/nowhere/x.yaml")).expect_err("no file");
    assert!(
        gone[0]
            .to_string()
            .starts_with("/nowhere/x.yaml:1:1: the file cannot be read: "),
        "{gone:?}"
    );
}

//! What expressions speak of: variables, their fields, functions.

use std::collections::{BTreeMap, BTreeSet};

use cel::IdedExpr;
use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedEntryExpr, LiteralValue};

/// The functions that there are, besides operators and the macros `has`, `all`, `exists`, `exists_one`, `map` and `filter`.
const FUNCTIONS: [&str; 13] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "bool",
    "type",
    "dyn",
];

/// Names that stand for types.
const TYPES: [&str; 10] = [
    "int",
    "uint",
    "double",
    "bool",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
];

/// What an expression may speak of: each variable, and its fields where they are known.
pub(crate) type Variables<'a> = [(&'a str, Option<Vec<String>>)];

/// What in `expression` is not there: variables, their fields, functions. One line each.
pub(super) fn unknown(expression: &IdedExpr, variables: &Variables<'_>) -> Vec<String> {
    let mut walk = Walk {
        variables,
        own: Vec::new(),
        unknown: BTreeSet::new(),
    };
    walk.expression(expression);
    walk.unknown.into_iter().collect()
}

/// How deep `all`, `exists`, `map` and `filter` are in one another: what is done for each item of a list, for each of another, grows by
/// powers.
pub(super) fn nested(expression: &IdedExpr) -> usize {
    let deepest = |all: &mut dyn Iterator<Item = &IdedExpr>| all.map(nested).max().unwrap_or(0);
    match &expression.expr {
        Expr::Comprehension(each) => {
            let inner = [&each.loop_cond, &each.loop_step, &each.result];
            let around = [&each.iter_range, &each.accu_init];
            let inner = 1 + deepest(&mut inner.into_iter());
            inner.max(deepest(&mut around.into_iter()))
        }
        Expr::Select(select) => nested(&select.operand),
        Expr::Call(call) => {
            let target = call.target.iter().map(|target| &**target);
            deepest(&mut target.chain(&call.args))
        }
        Expr::List(list) => deepest(&mut list.elements.iter()),
        Expr::Map(map) => map.entries.iter().map(of_entry).max().unwrap_or(0),
        Expr::Struct(made) => made.entries.iter().map(of_entry).max().unwrap_or(0),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => 0,
    }
}

fn of_entry(entry: &IdedEntryExpr) -> usize {
    match &entry.expr {
        EntryExpr::StructField(field) => nested(&field.value),
        EntryExpr::MapEntry(entry) => nested(&entry.key).max(nested(&entry.value)),
    }
}

struct Walk<'a> {
    variables: &'a Variables<'a>,
    /// Variables of comprehensions that are under way.
    own: Vec<String>,
    unknown: BTreeSet<String>,
}

impl Walk<'_> {
    fn expression(&mut self, expression: &IdedExpr) {
        match &expression.expr {
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => {
                self.expression(&select.operand);
                if let Expr::Ident(name) = &select.operand.expr {
                    self.field(name, &select.field);
                }
            }
            Expr::Call(call) => {
                if let Some((name, field)) = indexed(call) {
                    self.field(name, field);
                }
                self.function(&call.func_name);
                call.target
                    .iter()
                    .for_each(|target| self.expression(target));
                call.args
                    .iter()
                    .for_each(|argument| self.expression(argument));
            }
            Expr::Comprehension(each) => {
                self.expression(&each.iter_range);
                self.expression(&each.accu_init);
                let before = self.own.len();
                self.own
                    .extend([each.iter_var.clone(), each.accu_var.clone()]);
                self.own.extend(each.iter_var2.clone());
                self.expression(&each.loop_cond);
                self.expression(&each.loop_step);
                self.expression(&each.result);
                self.own.truncate(before);
            }
            Expr::List(list) => list.elements.iter().for_each(|each| self.expression(each)),
            Expr::Map(map) => self.entries(&map.entries),
            Expr::Struct(made) => {
                self.unknown
                    .insert(format!("there is no type `{}`", made.type_name));
                self.entries(&made.entries);
            }
            Expr::Literal(_) | Expr::Unspecified => {}
        }
    }

    fn entries(&mut self, entries: &[IdedEntryExpr]) {
        for entry in entries {
            match &entry.expr {
                EntryExpr::StructField(field) => self.expression(&field.value),
                EntryExpr::MapEntry(entry) => {
                    self.expression(&entry.key);
                    self.expression(&entry.value);
                }
            }
        }
    }

    fn variable(&mut self, name: &str) {
        let known = self.own.iter().any(|own| own == name)
            || self.variables.iter().any(|(variable, _)| *variable == name)
            || TYPES.contains(&name)
            || name.starts_with('@');
        if !known {
            let there = self.variables.iter().map(|(variable, _)| *variable);
            let meant = crate::problem::meant(name, there);
            self.unknown
                .insert(format!("there is no variable `{name}` here{meant}"));
        }
    }

    fn field(&mut self, variable: &str, field: &str) {
        if self.own.iter().any(|own| own == variable) {
            return;
        }
        let known = self.variables.iter().find(|(name, _)| *name == variable);
        if let Some((_, Some(fields))) = known
            && !fields.iter().any(|known| known == field)
        {
            let meant = crate::problem::meant(field, fields.iter().map(String::as_str));
            self.unknown
                .insert(format!("`{variable}` has no `{field}`{meant}"));
        }
    }

    fn function(&mut self, name: &str) {
        let operator = !name.starts_with(|first: char| first.is_ascii_alphabetic());
        if !operator && !FUNCTIONS.contains(&name) {
            let meant = crate::problem::meant(name, FUNCTIONS);
            self.unknown
                .insert(format!("there is no function `{name}`{meant}"));
        }
    }
}

/// What an expression asks of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// These fields of it, and nothing else.
    Fields(BTreeSet<String>),
    /// All of it; these fields are named.
    Whole(BTreeSet<String>),
}

/// What `expression` asks for, by the names of variables. A variable of its own that has the name of another is taken for that: more
/// may be told than is asked for, never less.
pub(super) fn asked(expression: &IdedExpr) -> BTreeMap<String, Asked> {
    let mut found = BTreeMap::new();
    ask(expression, &mut found);
    found
}

fn ask(expression: &IdedExpr, found: &mut BTreeMap<String, Asked>) {
    match &expression.expr {
        Expr::Ident(name) => {
            let named = match found.remove(name) {
                Some(Asked::Fields(named) | Asked::Whole(named)) => named,
                None => BTreeSet::new(),
            };
            found.insert(name.clone(), Asked::Whole(named));
        }
        Expr::Select(select) => match &select.operand.expr {
            Expr::Ident(name) => ask_field(name, &select.field, found),
            _ => ask(&select.operand, found),
        },
        Expr::Call(call) => {
            if let Some((name, field)) = indexed(call) {
                return ask_field(name, field, found);
            }
            let target = call.target.iter().map(|target| &**target);
            target.chain(&call.args).for_each(|part| ask(part, found));
        }
        Expr::Comprehension(all) => {
            let parts = [&all.iter_range, &all.accu_init, &all.loop_cond];
            let parts = parts.into_iter().chain([&all.loop_step, &all.result]);
            parts.for_each(|part| ask(part, found));
        }
        Expr::List(list) => list.elements.iter().for_each(|part| ask(part, found)),
        Expr::Map(map) => ask_entries(&map.entries, found),
        Expr::Struct(made) => ask_entries(&made.entries, found),
        Expr::Literal(_) | Expr::Unspecified => {}
    }
}

fn ask_field(name: &str, field: &str, found: &mut BTreeMap<String, Asked>) {
    let none = || Asked::Fields(BTreeSet::new());
    let (Asked::Fields(named) | Asked::Whole(named)) =
        found.entry(name.to_owned()).or_insert_with(none);
    named.insert(field.to_owned());
}

fn ask_entries(entries: &[IdedEntryExpr], found: &mut BTreeMap<String, Asked>) {
    for entry in entries {
        match &entry.expr {
            EntryExpr::StructField(field) => ask(&field.value, found),
            EntryExpr::MapEntry(entry) => {
                ask(&entry.key, found);
                ask(&entry.value, found);
            }
        }
    }
}

/// `outputs["name"]`, which is `outputs.name`.
fn indexed(call: &CallExpr) -> Option<(&str, &str)> {
    let (true, [object, index]) = (call.func_name == "_[_]", call.args.as_slice()) else {
        return None;
    };
    match (&object.expr, &index.expr) {
        (Expr::Ident(name), Expr::Literal(LiteralValue::String(field))) => {
            Some((name, field.inner()))
        }
        _ => None,
    }
}

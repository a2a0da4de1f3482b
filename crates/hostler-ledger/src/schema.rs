//! The schema and its history.

use rusqlite::{Connection, TransactionBehavior};

/// What makes each version from the one before. Released ones are never edited.
const MIGRATIONS: &[&str] = &[
    include_str!("schema/1.sql"),
    include_str!("schema/2.sql"),
    include_str!("schema/3.sql"),
    include_str!("schema/4.sql"),
];

/// The version that this release writes.
pub(crate) const VERSION: u32 = MIGRATIONS.len() as u32;

/// The mark of a ledger in the header of an SQLite file.
pub(crate) const APPLICATION_ID: u32 = u32::from_be_bytes(*b"Host");

/// The version of the schema in `connection`: 0 when it has none.
pub(crate) fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Brings `connection` to [`VERSION`], each step in a transaction of its own, so that a step that fails or is cut off leaves
/// the version before it.
pub(crate) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    steps(connection, MIGRATIONS)
}

fn steps(connection: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    let found = version(connection)?;
    for (made, migration) in (1u32..).zip(migrations) {
        if made <= found {
            continue;
        }
        let step = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        step.execute_batch(migration)?;
        step.pragma_update(None, "user_version", made)?;
        step.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_made_once_and_a_failing_one_leaves_the_version_before_it() {
        let mut connection = Connection::open_in_memory().expect("a database");
        let one = "CREATE TABLE a (x) STRICT";
        assert!(
            steps(&mut connection, &[one]).is_err(),
            "a STRICT table needs types"
        );
        assert_eq!(version(&connection).expect("version"), 0);

        let one = "CREATE TABLE a (x INTEGER) STRICT; INSERT INTO a VALUES (1)";
        let broken = "UPDATE a SET x = 2; INSERT INTO nowhere VALUES (1)";
        assert!(steps(&mut connection, &[one, broken]).is_err());
        assert_eq!(version(&connection).expect("version"), 1);
        let x = |connection: &Connection| {
            connection
                .query_row("SELECT x FROM a", [], |row| row.get::<_, i64>(0))
                .expect("a row")
        };
        assert_eq!(x(&connection), 1, "the failed step changed nothing");

        let two = "UPDATE a SET x = x + 1";
        steps(&mut connection, &[one, two]).expect("steps");
        steps(&mut connection, &[one, two]).expect("nothing to do");
        assert_eq!(
            (version(&connection).expect("version"), x(&connection)),
            (2, 2)
        );
    }
}

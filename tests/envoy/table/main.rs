//! What requests meet: every row of the tables beside this file goes through real Envoys, in networks of their own and with
//! real redirection, that a real `lateend` steers; and what came of it must be what the row says.
//!
//! The simulator behind `lateen explain` is held to every row: what it says of the first proxy on the way must have come.
//!
//! `LATEEN_TABLE` limits it to files whose names contain that text.

mod base;
mod foretell;
mod run;
mod scene;

use std::path::Path;

use anyhow::{Result, ensure};
use lateen_testkit::table::Table;
use lateen_testkit::{envoy, fabric};

use scene::Scene;

/// There are as many rows, at least.
const ROWS: usize = 250;

fn tables() -> Result<Vec<Table>> {
    Table::all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy/table"))
}

#[test]
fn the_table_has_its_rows() -> Result<()> {
    let rows: usize = tables()?.iter().map(|table| table.rows.len()).sum();
    ensure!(rows >= ROWS, "{rows} rows");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_meet_what_the_table_says() -> Result<()> {
    let Some(binary) = envoy::binary() else {
        return Ok(());
    };
    if !fabric::is_possible() {
        return Ok(());
    }
    let only = std::env::var("LATEEN_TABLE").unwrap_or_default();
    let mut scene = Scene::start(&binary).await?;
    let (mut rows, mut foretold, mut failures) = (0, 0, Vec::new());
    for table in tables()?.iter().filter(|table| table.name().contains(&only)) {
        let begun = std::time::Instant::now();
        rows += table.rows.len();
        let before = failures.len();
        foretold += run::table(&mut scene, table, &mut failures).await;
        let failed = failures.len() - before;
        println!(
            "{}: {} rows, {failed} failed, {:?}",
            table.name(),
            table.rows.len(),
            begun.elapsed()
        );
    }
    println!("{rows} rows, {} failed; {foretold} were foretold", failures.len());
    if !failures.is_empty() {
        println!("{}", scene.logs());
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
    ensure!(
        !only.is_empty() || foretold >= ROWS,
        "only {foretold} rows were foretold"
    );
    Ok(())
}

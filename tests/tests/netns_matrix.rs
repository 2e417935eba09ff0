//! The fault matrix in its short form: every row does its harm to a real pair and sees its promise hold. The full form is
//! `cargo xtask faults --full`.

use ha_tests::matrix::{Extent, MATRIX, table};

/// All rows are run, also after one that fails: the failures are named together.
#[test]
fn netns_alone_fault_matrix() {
    let rows: Vec<_> = MATRIX
        .into_iter()
        .map(|fault| {
            let seen = (fault.prove)(Extent::Short);
            println!("{}: {seen:?}", fault.name);
            (fault, seen)
        })
        .collect();
    assert!(rows.iter().all(|(_, seen)| seen.is_ok()), "{}", table(&rows));
}

//! Every file of the committed corpus goes through its function once more, without instrumentation.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

#[test]
fn no_input_of_the_corpus_breaks_its_parser() -> Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, target) in lateen_fuzz::TARGETS {
        let folder = corpus.join(name);
        let mut files = 0;
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            let data = std::fs::read(&path)?;
            let whole = std::panic::catch_unwind(|| target(&data));
            ensure!(whole.is_ok(), "{} breaks {name}", path.display());
            files += 1;
        }
        ensure!(files > 0, "{} holds no input", folder.display());
        println!("{name}: {files} inputs");
    }
    Ok(())
}

#[test]
fn every_target_is_run_by_libfuzzer_too() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/fuzz_targets");
    let mut there = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .file_stem()
            .context("a file without name")?
            .to_string_lossy()
            .into_owned();
        let text = std::fs::read_to_string(&path)?;
        ensure!(
            text.contains(&format!("lateen_fuzz::{name}(")),
            "{name} runs something else"
        );
        there.push(name);
    }
    there.sort();
    let names: Vec<_> = lateen_fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
    ensure!(there == names, "{there:?} are there, {names:?} are named");
    Ok(())
}

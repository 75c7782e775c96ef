//! Writes the CustomResourceDefinitions as YAML, one file per kind: `cargo run -p lateen-api --example crds -- DIRECTORY`.

use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = PathBuf::from(env::args_os().nth(1).ok_or("usage: crds DIRECTORY")?);
    fs::create_dir_all(&directory)?;
    for info in lateen_api::KINDS {
        let yaml = serde_yaml::to_string(&lateen_api::crd::crd(info))?;
        fs::write(directory.join(lateen_api::crd::file_name(info)), yaml)?;
    }
    Ok(())
}

//! What images take from the machine that builds them: the libraries that a dynamic program names, and which packages
//! these files come from.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::layer::Layer;

/// Puts a program into the layer, with every library that its loader would load.
///
/// # Errors
/// When a library is missing.
pub(super) fn program(layer: &mut Layer, path: &str, from: &Path) -> Result<()> {
    let real = fs::canonicalize(from).with_context(|| format!("{} is missing", from.display()))?;
    layer.file(path, &real)?;
    libraries(layer, &real)
}

/// Puts the libraries of a program, or of another library, into the layer.
///
/// # Errors
/// When one is missing.
pub(super) fn libraries(layer: &mut Layer, of: &Path) -> Result<()> {
    let output = Command::new("ldd").arg(of).output().context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    for library in named(&text).with_context(|| format!("{} cannot run here", of.display()))? {
        let real = fs::canonicalize(&library).with_context(|| format!("{} is missing", library.display()))?;
        layer.file(&library.to_string_lossy(), &real)?;
    }
    Ok(())
}

/// The files in what `ldd` prints. A static program has none.
fn named(text: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in text.lines() {
        if line.contains("not found") {
            bail!("{}", line.trim());
        }
        let place = line.split_once("=> ").map_or(line, |(_, place)| place).trim();
        if let Some((path, _)) = place.split_once(" (0x")
            && path.starts_with('/')
        {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}

/// A Debian package: name and version.
pub(super) type Package = (String, String);

/// The packages that files of this machine come from, where dpkg knows them.
pub(super) fn packages<'a>(files: impl IntoIterator<Item = &'a Path>) -> BTreeSet<Package> {
    let mut query = Command::new("dpkg-query");
    query.arg("-S");
    for file in files {
        query.arg(file);
        // A merged /usr has files under both names, and dpkg knows only one of them.
        if let Ok(rest) = file.strip_prefix("/usr") {
            query.arg(Path::new("/").join(rest));
        }
    }
    let Ok(owners) = query.output() else {
        return BTreeSet::new();
    };
    let names = owners_in(&String::from_utf8_lossy(&owners.stdout));
    if names.is_empty() {
        return BTreeSet::new();
    }
    let versions = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${Version}\n"])
        .args(&names)
        .output();
    let Ok(versions) = versions else {
        return BTreeSet::new();
    };
    String::from_utf8_lossy(&versions.stdout)
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .collect()
}

/// The packages in what `dpkg-query -S` prints: `libc6:amd64, libc6-i386: /lib/x`.
fn owners_in(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.split_once(": "))
        .filter_map(|(names, _)| names.split(", ").next())
        .filter(|name| !name.contains(' '))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_prints() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found = named(text).unwrap();
        assert_eq!(
            found,
            [
                Path::new("/lib/x86_64-linux-gnu/libm.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert!(named("\tstatically linked\n").unwrap().is_empty());
        assert!(named("\tlibx.so => not found\n").is_err());
    }

    #[test]
    fn packages_are_read_from_what_dpkg_prints() {
        let text = "libc6:amd64: /lib/x86_64-linux-gnu/libm.so.6\niptables: /usr/sbin/xtables-nft-multi\n\
            diversion by dash from: /bin/sh\n";
        assert_eq!(
            owners_in(text).into_iter().collect::<Vec<_>>(),
            ["iptables", "libc6:amd64"]
        );
    }
}

//! The edits a user would make in an editor, made to the running copy of the sample's files.

use std::path::Path;

use anyhow::{Context, Result, bail};

/// Sets the weights of the subsets in a VirtualService's file.
///
/// # Errors
/// When the file has no such weight or cannot be replaced.
pub(super) fn weights(file: &Path, weights: &[(&str, u32)]) -> Result<()> {
    change(file, |text| set_weights(text, weights))
}

/// Marks the endpoint at `address` as on its way out, as Kubernetes does when a pod is deleted.
///
/// # Errors
/// When the file has no such endpoint or cannot be replaced.
pub(super) fn terminating(file: &Path, address: &str) -> Result<()> {
    change(file, |text| set_terminating(text, address))
}

/// Replaces a file at once, so that nobody reads half of it.
fn change(file: &Path, edit: impl Fn(&str) -> Result<String>) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let text = edit(&text).with_context(|| format!("cannot edit {}", file.display()))?;
    let beside = file.with_extension("new");
    std::fs::write(&beside, text).with_context(|| format!("cannot write {}", beside.display()))?;
    std::fs::rename(&beside, file).with_context(|| format!("cannot replace {}", file.display()))
}

fn set_weights(text: &str, weights: &[(&str, u32)]) -> Result<String> {
    let mut subset = "";
    let mut left: Vec<&str> = weights.iter().map(|(name, _)| *name).collect();
    let lines = text.lines().map(|line| {
        if let Some((_, name)) = line.split_once("subset: ") {
            subset = name.trim();
        }
        match (
            line.split_once("weight: "),
            weights.iter().find(|(name, _)| *name == subset),
        ) {
            (Some((before, _)), Some((name, weight))) => {
                left.retain(|other| other != name);
                format!("{before}weight: {weight}")
            }
            _ => line.to_owned(),
        }
    });
    let text = lines.collect::<Vec<_>>().join("\n") + "\n";
    if !left.is_empty() {
        bail!("no weight for subset {}", left.join(", "));
    }
    Ok(text)
}

fn set_terminating(text: &str, address: &str) -> Result<String> {
    let mut here = false;
    let mut found = false;
    let lines = text.lines().map(|line| {
        if let Some((_, addresses)) = line.split_once("addresses: [") {
            here = addresses.trim_end_matches(']') == address;
        }
        match line.split_once("conditions: ") {
            Some((before, _)) if here => {
                found = true;
                format!("{before}conditions: {{ready: false, serving: true, terminating: true}}")
            }
            _ => line.to_owned(),
        }
    });
    let text = lines.collect::<Vec<_>>().join("\n") + "\n";
    if !found {
        bail!("no endpoint at {address}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::root;

    fn sample(name: &str) -> String {
        std::fs::read_to_string(root().join("samples/bookinfo").join(name)).unwrap()
    }

    #[test]
    fn weights_of_the_sample_change_and_nothing_else() {
        let before = sample("reviews-route.yaml");
        let after = set_weights(&before, &[("v1", 90), ("v3", 10)]).unwrap();
        assert_eq!(
            after,
            before
                .replace("weight: 100", "weight: 90")
                .replace("weight: 0", "weight: 10")
        );
        assert!(
            set_weights(&before, &[("v9", 1)])
                .unwrap_err()
                .to_string()
                .contains("v9")
        );
    }

    #[test]
    fn one_endpoint_of_the_sample_goes() {
        let before = sample("ratings-endpoints.yaml");
        let after = set_terminating(&before, "10.244.2.14").unwrap();
        let changed: Vec<_> = before
            .lines()
            .zip(after.lines())
            .filter(|(old, new)| old != new)
            .collect();
        assert_eq!(
            changed,
            [(
                "    conditions: {ready: true, serving: true, terminating: false}",
                "    conditions: {ready: false, serving: true, terminating: true}"
            )]
        );
        assert!(set_terminating(&before, "10.0.0.1").is_err());
    }
}

//! Files on a real file system.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;

const GOOD: &str =
    "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop}\nspec: {ports: [{port: 80, name: http}]}\n";

fn source(dir: &TempDir) -> FileSource {
    FileSource::new(vec![dir.path().to_path_buf()], ClusterId::new("Kubernetes").unwrap())
}

#[test]
fn a_broken_file_keeps_what_it_had_and_names_the_place() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("a.yaml");
    fs::write(&file, GOOD).unwrap();
    let mut source = source(&dir);
    assert_eq!(source.reload().unwrap().len(), 1);

    fs::write(&file, "apiVersion: v1\nkind: Service\nmetadata: {name: a\nspec: [\n").unwrap();
    assert!(source.reload().unwrap().is_empty());
    assert_eq!(source.objects().count(), 1);
    let problem = &source.problems()[0];
    assert_eq!(problem.severity, Severity::Error);
    assert!(problem.line.is_some(), "{problem}");
    assert!(problem.to_string().contains("a.yaml"), "{problem}");

    fs::write(&file, GOOD).unwrap();
    assert!(source.reload().unwrap().is_empty());
    assert!(source.problems().is_empty());
}

#[test]
fn wrong_types_and_unknown_fields_name_line_and_field() {
    let dir = TempDir::new().unwrap();
    fs::write(
        dir.path().join("vs.yaml"),
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: a\nspec:\n  hosts: [a]\n  http:\n  - tiemout: 5s\n",
    )
    .unwrap();
    fs::write(
        dir.path().join("dr.yaml"),
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: a\nspec:\n  host: 7\n",
    )
    .unwrap();
    let mut source = source(&dir);
    assert!(source.reload().unwrap().is_empty());
    let texts: Vec<String> = source.problems().iter().map(ToString::to_string).collect();
    assert!(
        texts
            .iter()
            .any(|text| text.contains("vs.yaml:8") && text.contains("spec.http[0].tiemout")),
        "{texts:?}"
    );
    assert!(
        texts
            .iter()
            .any(|text| text.contains("dr.yaml:6") && text.contains("spec.host")),
        "{texts:?}"
    );
}

#[test]
fn links_that_lead_out_of_the_tree_are_not_followed() {
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("secret.yaml"), GOOD).unwrap();
    let dir = TempDir::new().unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret.yaml"), dir.path().join("a.yaml")).unwrap();
    let mut source = source(&dir);
    assert!(source.reload().unwrap().is_empty());
}

#[test]
fn a_path_that_is_not_there_is_an_error_that_names_it() {
    let error = load_once(
        &[PathBuf::from("/nowhere/at/all.yaml")],
        ClusterId::new("c").unwrap(),
        false,
    )
    .unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all.yaml"), "{error}");
}

#[test]
fn of_two_definitions_the_last_counts_and_is_reported() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a.yaml"), GOOD).unwrap();
    fs::write(dir.path().join("b.yaml"), GOOD.replace("80", "81")).unwrap();
    let mut source = source(&dir);
    assert_eq!(source.reload().unwrap().len(), 1);
    assert!(source.problems()[0].to_string().contains("a.yaml"));
}

/// A watch, and what comes out of it.
struct Watched {
    updates: mpsc::Receiver<Update>,
    _tasks: tokio::task::JoinSet<Result<(), WatchError>>,
}

impl Watched {
    fn new(paths: &[&Path]) -> Self {
        let paths = paths.iter().map(|path| path.to_path_buf()).collect();
        let source = FileSource::new(paths, ClusterId::new("Kubernetes").unwrap());
        let (sender, updates) = mpsc::channel(4);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(watch(source, sender));
        Self { updates, _tasks: tasks }
    }

    /// The next events: the objects' names, with the port of services.
    async fn next(&mut self) -> Vec<String> {
        // Less than the time after which all is read without notice.
        let update = tokio::time::timeout(Duration::from_secs(20), self.updates.recv()).await;
        let events = update.unwrap().unwrap().events.into_iter();
        let text = |event: Event| match event.change {
            Change::Apply(object) => {
                let port = object.to_json()["spec"]["ports"][0]["port"].clone();
                format!("{} {port}", object.key().unwrap().name)
            }
            Change::Delete { key, .. } => format!("{} gone", key.name),
        };
        events.map(text).collect()
    }
}

/// As `ln -sfn` does.
fn turn(link: &Path, to: &str) {
    let part = link.with_file_name("turning");
    std::os::unix::fs::symlink(to, &part).unwrap();
    fs::rename(&part, link).unwrap();
    assert_eq!(fs::read_link(link).unwrap(), Path::new(to));
}

#[tokio::test]
async fn changes_are_noticed() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("a.yaml");
    fs::write(&file, GOOD).unwrap();
    let mut watched = Watched::new(&[dir.path()]);
    assert_eq!(watched.next().await, ["a 80"]);

    // As editors do: a new file is put over the old one.
    let part = dir.path().join("a.part");
    fs::write(&part, GOOD.replace("80", "81")).unwrap();
    fs::rename(&part, &file).unwrap();
    assert_eq!(watched.next().await, ["a 81"]);

    // In place, and in a directory that was not there before.
    fs::write(&file, GOOD.replace("80", "82")).unwrap();
    assert_eq!(watched.next().await, ["a 82"]);
    fs::create_dir_all(dir.path().join("more/yet")).unwrap();
    fs::write(dir.path().join("more/yet/b.yaml"), GOOD.replace("name: a", "name: b")).unwrap();
    assert_eq!(watched.next().await, ["b 80"]);

    fs::remove_file(&file).unwrap();
    assert_eq!(watched.next().await, ["a gone"]);
}

#[tokio::test]
async fn files_and_directories_are_watched_side_by_side() {
    let (one, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (file, beside) = (one.path().join("a.yaml"), one.path().join("beside.yaml"));
    fs::write(&file, GOOD).unwrap();
    fs::write(&beside, GOOD.replace("name: a", "name: beside")).unwrap();
    fs::write(other.path().join("b.yml"), GOOD.replace("name: a", "name: b")).unwrap();
    let mut watched = Watched::new(&[&file, other.path()]);
    assert_eq!(watched.next().await, ["a 80", "b 80"]);
    fs::write(&file, GOOD.replace("80", "81")).unwrap();
    assert_eq!(watched.next().await, ["a 81"]);
    fs::write(other.path().join("b.yml"), GOOD.replace("name: a", "name: c")).unwrap();
    assert_eq!(watched.next().await, ["b gone", "c 80"]);
}

#[tokio::test]
async fn turned_links_are_noticed_again_and_again() {
    let dir = TempDir::new().unwrap();
    for (folder, port) in [("1", "81"), ("2", "82"), ("3", "83")] {
        let folder = dir.path().join(folder);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("a.yaml"), GOOD.replace("80", port)).unwrap();
    }
    // A checkout that a link leads to, and one file out of a mounted ConfigMap.
    let (current, file) = (dir.path().join("current"), dir.path().join("mount/a.yaml"));
    turn(&current, "1");
    fs::create_dir(dir.path().join("mount")).unwrap();
    let data = dir.path().join("mount/..data");
    turn(&data, "../1");
    turn(&file, "..data/a.yaml");
    for (root, link, prefix) in [(&current, &current, ""), (&file, &data, "../")] {
        turn(link, &format!("{prefix}1"));
        let mut watched = Watched::new(&[root]);
        assert_eq!(watched.next().await, ["a 81"], "{root:?}");
        turn(link, &format!("{prefix}2"));
        assert_eq!(watched.next().await, ["a 82"], "{root:?}");
        turn(link, &format!("{prefix}3"));
        assert_eq!(watched.next().await, ["a 83"], "{root:?}");
        // Where the link leads to now, changes are noticed too.
        fs::write(dir.path().join("3/a.yaml"), GOOD.replace("80", "84")).unwrap();
        assert_eq!(watched.next().await, ["a 84"], "{root:?}");
        fs::write(dir.path().join("3/a.yaml"), GOOD.replace("80", "83")).unwrap();
    }
}

#[test]
fn objects_of_no_age_are_of_one_age() {
    let dir = TempDir::new().unwrap();
    let old = GOOD.replace("{name: a", "{name: old, creationTimestamp: \"2023-01-01T00:00:00Z\"");
    fs::write(dir.path().join("a.yaml"), GOOD.to_owned() + "---\n" + &old).unwrap();
    let mut source = source(&dir);
    source.reload().unwrap();
    let ages: Vec<i64> = source
        .objects()
        .map(|object| object.metadata().creation_timestamp.as_ref().unwrap().0.as_second())
        .collect();
    assert_eq!(ages, [1_704_067_200, 1_672_531_200]);
}

#[test]
fn a_refused_object_keeps_its_version_before_and_the_rest_counts() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("a.yaml");
    let entry = |spec: &str| {
        format!("apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: s}}\nspec: {spec}\n---\n")
    };
    fs::write(&file, entry("{egress: [{hosts: ['./*']}]}") + GOOD).unwrap();
    let mut source = source(&dir);
    assert_eq!(source.reload().unwrap().len(), 2);

    fs::write(&file, entry("{egres: []}") + &GOOD.replace("80", "81")).unwrap();
    let events = source.reload().unwrap();
    assert!(
        matches!(&events[..], [Event { change: Change::Apply(object), .. }] if object.kind() == Kind::Service),
        "{events:?}"
    );
    assert_eq!(source.objects().count(), 2);
    assert!(
        source
            .problems()
            .iter()
            .any(|problem| problem.field == "spec.egres" && problem.line == Some(4))
    );

    let mut kept = FileSource::new(vec![file], ClusterId::new("Kubernetes").unwrap()).keep_rejected(true);
    assert_eq!(kept.reload().unwrap().len(), 2);
    assert_eq!(kept.problems()[0].severity, Severity::Warning);
}

#[test]
fn lists_are_taken_apart_and_unknown_kinds_named_once() {
    let dir = TempDir::new().unwrap();
    let other = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n---\n".repeat(2);
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Node, metadata: {name: n}}\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: 7}\n";
    fs::write(
        dir.path().join("a.json"),
        "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"x\"}}",
    )
    .unwrap();
    fs::write(dir.path().join("a.yaml"), other.clone() + list).unwrap();
    fs::write(dir.path().join("b.yaml"), other).unwrap();
    let mut source = source(&dir);
    assert_eq!(source.reload().unwrap().len(), 2);
    let texts: Vec<String> = source.problems().iter().map(ToString::to_string).collect();
    assert_eq!(
        texts.iter().filter(|text| text.contains("Deployment")).count(),
        1,
        "{texts:?}"
    );
    assert!(
        texts
            .iter()
            .any(|text| text.contains("a.yaml:15:20: Pod: metadata.name: must be text")),
        "{texts:?}"
    );
}

#[test]
fn the_folder_of_a_mounted_config_map_can_be_swapped() {
    use std::os::unix::fs::symlink;
    let dir = TempDir::new().unwrap();
    for (folder, port) in [("..1", "80"), ("..2", "81")] {
        fs::create_dir(dir.path().join(folder)).unwrap();
        fs::write(dir.path().join(folder).join("a.yaml"), GOOD.replace("80", port)).unwrap();
    }
    symlink("..1", dir.path().join("..data")).unwrap();
    symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
    let mut source = source(&dir);
    assert_eq!(source.reload().unwrap().len(), 1);
    symlink("..2", dir.path().join("..tmp")).unwrap();
    fs::rename(dir.path().join("..tmp"), dir.path().join("..data")).unwrap();
    assert_eq!(source.reload().unwrap().len(), 1);
    assert!(source.reload().unwrap().is_empty());
}

#[test]
fn files_that_are_no_text_keep_what_they_had() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("a.yaml");
    fs::write(&file, GOOD).unwrap();
    let mut source = source(&dir);
    source.reload().unwrap();
    fs::write(&file, b"a: 1\n\xff\n").unwrap();
    assert!(source.reload().unwrap().is_empty());
    assert!(
        source.problems()[0].to_string().contains("UTF-8 in line 2"),
        "{}",
        source.problems()[0]
    );
    fs::remove_file(&file).unwrap();
    assert_eq!(source.reload().unwrap().len(), 1);
    assert!(source.problems().is_empty());
}

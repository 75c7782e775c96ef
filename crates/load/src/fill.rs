//! Fills an API server with a mesh, and takes the mesh away again.

use anyhow::Result;
use futures::future::ready;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;

use crate::mesh::Mesh;
use crate::progress::Progress;
use crate::writer::Writer;

/// How many objects are written at a time.
const AT_A_TIME: usize = 16;

/// Writes all objects of a mesh. What is there already stays, if it is the same.
///
/// # Errors
/// When such a mesh cannot be, or the API server does not take an object; the message names it.
pub async fn fill(writer: &Writer, mesh: &Mesh, progress: Progress) -> Result<()> {
    mesh.check()?;
    let surroundings = mesh.surroundings();
    let step = progress.step("namespaces", Some(2 * mesh.namespaces + surroundings.len()));
    write(writer, mesh.all_namespaces(), || step.advance()).await?;
    write(writer, mesh.accounts(), || step.advance()).await?;
    write(writer, surroundings, || step.advance()).await?;
    step.done(&format!("{}", mesh.namespaces));

    let step = progress.step("services", Some(2 * (mesh.services + mesh.routes)));
    let services = (0..mesh.services).flat_map(|service| mesh.service(service));
    write(writer, services, || step.advance()).await?;
    step.done(&format!("{}, {} of them with routes", mesh.services, mesh.routes));

    if mesh.pods {
        let step = progress.step("pods", Some(mesh.instances()));
        let pods = (0..mesh.instances()).map(|number| mesh.instance(number).pod());
        write(writer, pods, || step.advance()).await?;
        step.done(&format!("{}", mesh.instances()));
    }
    // Last, so that what it describes is there.
    writer.apply(&mesh.config_map()).await
}

/// Deletes every namespace and node that a mesh was made of.
///
/// # Errors
/// When the API server refuses.
pub async fn clear(writer: &Writer, progress: Progress) -> Result<()> {
    let namespaces = writer.made("Namespace").await?;
    let step = progress.step("deleting namespaces", Some(namespaces.len()));
    for name in &namespaces {
        writer.empty(name).await?;
        writer.delete("Namespace", None, name).await?;
        step.advance();
    }
    for name in writer.made("Node").await? {
        writer.delete("Node", None, &name).await?;
    }
    step.done(&format!("{}", namespaces.len()));
    Ok(())
}

/// Writes objects, several at a time and in any order.
///
/// # Errors
/// When the API server does not take one of them; the message names it.
pub(crate) async fn write(writer: &Writer, objects: impl IntoIterator<Item = Value>, written: impl Fn()) -> Result<()> {
    stream::iter(objects)
        .map(|object| async move { writer.apply(&object).await })
        .buffer_unordered(AT_A_TIME)
        .try_for_each(|()| {
            written();
            ready(Ok(()))
        })
        .await
}

//! Fills an API server with a mesh, and takes the mesh away again.

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;

use crate::mesh::Mesh;
use crate::progress::{Progress, Step};
use crate::writer::Writer;

/// How many objects are written at a time.
const AT_A_TIME: usize = 16;

/// Writes all objects of a mesh. What is there already stays, if it is the same.
///
/// # Errors
/// When such a mesh cannot be, or the API server does not take an object; the message names it.
pub async fn fill(writer: &Writer, mesh: &Mesh, progress: Progress) -> Result<()> {
    mesh.check()?;
    let step = progress.step("namespaces", Some(2 * mesh.namespaces));
    write(writer, mesh.all_namespaces(), &step).await?;
    write(writer, mesh.accounts(), &step).await?;
    write(writer, mesh.surroundings(), &step).await?;
    step.done(&format!("{}", mesh.namespaces));

    let step = progress.step("services", Some(mesh.services));
    stream::iter(0..mesh.services)
        .map(|service| async move {
            for object in mesh.service(service) {
                writer.apply(&object).await?;
            }
            Ok::<_, anyhow::Error>(())
        })
        .buffer_unordered(AT_A_TIME)
        .try_for_each(|()| async {
            step.advance();
            Ok(())
        })
        .await?;
    step.done(&format!("{}, {} of them with routes", mesh.services, mesh.routes));

    if mesh.pods {
        let step = progress.step("pods", Some(mesh.instances()));
        write(
            writer,
            (0..mesh.instances()).map(|number| mesh.instance(number).pod()),
            &step,
        )
        .await?;
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

async fn write(writer: &Writer, objects: impl IntoIterator<Item = Value>, step: &Step) -> Result<()> {
    stream::iter(objects)
        .map(|object| async move { writer.apply(&object).await })
        .buffer_unordered(AT_A_TIME)
        .try_for_each(|()| async {
            step.advance();
            Ok(())
        })
        .await
}

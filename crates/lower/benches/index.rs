//! What one change costs the index, from the object to the new snapshot: an endpoint of a service, and a route, in meshes
//! of 1,000 and 5,000 services, half of which have a VirtualService.

#![expect(clippy::expect_used, reason = "a benchmark has nothing to go on with")]

mod mesh;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_main};
use lateen_lower::{Event, Index, Settings};
use mesh::{endpoints, event, route, service};
use serde_json::Value;

const SIZES: [usize; 2] = [1_000, 5_000];

fn filled(services: usize) -> Index {
    let mut index = Index::new(Settings::new("").expect("settings"));
    let mut objects: Vec<Event> = Vec::new();
    for i in 0..services {
        objects.extend([event(&service(i)), event(&endpoints(i, &[1, 2]))]);
        if i % 2 == 0 {
            objects.push(event(&route(i, 90)));
        }
    }
    index.apply(objects);
    index.publish();
    index
}

/// A new variant each time: what is equal changes nothing.
fn changes(criterion: &mut Criterion, index: &mut Index, name: &str, change: impl Fn(usize) -> Value) {
    let mut variant = 0;
    criterion.bench_function(name, |bench| {
        bench.iter_batched(
            || {
                variant = (variant + 1) % 100;
                vec![event(&change(variant))]
            },
            |events| {
                index.apply(events);
                black_box(index.publish())
            },
            BatchSize::PerIteration,
        );
    });
}

fn benches(criterion: &mut Criterion) {
    for services in SIZES {
        let mut index = filled(services);
        let name = |what: &str| format!("{services} services: {what} changed");
        changes(criterion, &mut index, &name("an endpoint"), |variant| {
            endpoints(8, &[1, 100 + variant])
        });
        changes(criterion, &mut index, &name("a route"), |variant| route(8, variant));
    }
}

#[allow(missing_docs, reason = "made by the macro")]
mod group {
    use criterion::{Criterion, criterion_group};

    use super::benches;

    criterion_group! {
        name = index;
        config = Criterion::default().sample_size(20);
        targets = benches
    }
}
criterion_main!(group::index);

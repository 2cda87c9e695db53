// SPDX-License-Identifier: Apache-2.0
//! Times over the wire, printed; held to a bound that only a write to disk on the way, a copy, or a
//! lock over everything would break.

use std::fs;
use std::time::{Duration, Instant};

use crate::world::{Client, World, mount};

fn summary(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!(
        "{what}: {} calls, p50 {:?}, p95 {:?}, max {:?}",
        times.len(),
        at(50),
        at(95),
        at(100)
    );
    at(50)
}

async fn base_of(world: &World, client: &Client, bytes: usize) {
    let prepared = client.prepare("x", "").await.unwrap();
    let mounted = mount(&prepared, &world.path().join("x"));
    fs::write(mounted.path().join("data"), vec![5; bytes]).unwrap();
    drop(mounted);
    client.commit("base", "x").await.unwrap();
}

#[tokio::test]
async fn prepare_costs_about_as_much_as_a_question() {
    let Some(world) = World::new() else { return };
    let _daemon = world.start();
    let client = world.client().await;
    base_of(&world, &client, 64 << 20).await;

    let mut questions = Vec::new();
    let mut prepares = Vec::new();
    let mut removes = Vec::new();
    for number in 0..200 {
        let start = Instant::now();
        client.stat("base").await.unwrap();
        questions.push(start.elapsed());
        let start = Instant::now();
        client.prepare(&format!("c{number}"), "base").await.unwrap();
        prepares.push(start.elapsed());
    }
    let burst = Instant::now();
    let burst: Vec<_> = (0..50)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move {
                client.prepare(&format!("b{number}"), "base").await.unwrap();
                burst.elapsed()
            })
        })
        .collect();
    let mut burst_of_50 = Vec::new();
    for one in burst {
        burst_of_50.push(one.await.unwrap());
    }
    for number in 0..200 {
        let start = Instant::now();
        client.remove(&format!("c{number}")).await.unwrap();
        removes.push(start.elapsed());
    }
    let mut commits = Vec::new();
    for number in 0..20 {
        client.prepare("y", "base").await.unwrap();
        let start = Instant::now();
        client.commit(&format!("layer{number}"), "y").await.unwrap();
        commits.push(start.elapsed());
    }
    let question = summary("Stat", questions);
    let prepare = summary("Prepare", prepares);
    summary("Prepare, 50 at once, since the first was sent", burst_of_50);
    summary("Commit, nothing written", commits);
    summary("Remove", removes);
    assert!(
        prepare < question * 20 + Duration::from_millis(5),
        "Prepare took {prepare:?}, Stat {question:?}"
    );
}

//! restic: the client that the first promise is made to.

use super::Ground;
use conformance::content::Dice;
use conformance::restic::{Restic, life, made_tree};
use conformance::server::{Server, Settings};
use conformance::tools::compare_trees;
use std::fs;

#[test]
fn restic_backs_up_checks_prunes_and_restores_identical_trees() {
    let place = tempfile::tempdir().unwrap();
    let seed = Dice::fresh_seed();
    println!("seed {seed}");
    let tree = made_tree(place.path(), 400, seed).unwrap();
    let server = Server::start().unwrap();
    println!("{}", life(&server, &tree, place.path(), &|step| println!("{step}")).unwrap());
}

#[test]
fn a_restic_repository_outlives_kills_between_its_steps() {
    let place = tempfile::tempdir().unwrap();
    let tree = made_tree(place.path(), 80, 11).unwrap();
    let mut server = Server::start().unwrap();
    let home = place.path().join("home");
    fs::create_dir_all(&home).unwrap();
    let source = tree.to_string_lossy().into_owned();
    for step in [vec!["init"], vec!["backup", &source], vec!["check", "--read-data"], vec!["backup", "--force", &source]] {
        Restic::new(&server, "kills", &home).run(&step).unwrap();
        server.kill();
        server.restart().unwrap();
    }
    let target = place.path().join("restored");
    Restic::new(&server, "kills", &home).run(&["restore", "latest", "--target", &target.to_string_lossy()]).unwrap();
    assert_eq!(compare_trees(&tree, &target.join(tree.strip_prefix("/").unwrap())), Vec::<String>::new());
}

/// restic's lock: LIST, PUT, LIST. Two exclusive locks must never be granted at once.
#[test]
fn two_restics_never_hold_the_exclusive_lock_at_once() {
    let ground = Ground::with(Settings::default());
    let source = ground.tree.to_string_lossy().into_owned();
    Restic::new(&ground.server, "locks", &ground.home).run(&["init"]).unwrap();
    Restic::new(&ground.server, "locks", &ground.home).run(&["backup", &source]).unwrap();
    // Whoever is refused says so; nobody may break the repository.
    std::thread::scope(|scope| {
        for n in 0..3 {
            let ground = &ground;
            let home = ground.path(&format!("home-{n}"));
            fs::create_dir_all(&home).unwrap();
            scope.spawn(move || {
                let restic = Restic::new(&ground.server, "locks", &home);
                match restic.run(&["prune"]) {
                    Ok(_) => {}
                    Err(text) => assert!(text.contains("already locked") || text.contains("unable to create lock"), "{text}"),
                }
            });
        }
    });
    Restic::new(&ground.server, "locks", &ground.home).run(&["unlock"]).unwrap();
    Restic::new(&ground.server, "locks", &ground.home).run(&["check", "--read-data"]).unwrap();
}

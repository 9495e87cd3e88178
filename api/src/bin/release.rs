//! What `make release` needs: `release prepare REPOSITORY VERSION DATE` puts the version into every file that names it;
//! `release bill REPOSITORY RUST LIBC IMAGE=DIGEST... < METADATA` writes the bill of materials, from what `cargo metadata` says
//! and the versions of Rust and of the C library.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{Read, stdin};
use std::path::Path;

use metallb_api::release::{
    FILES,
    bill::{Built, bill},
    prepare,
};
use semver::Version;

const USAGE: &str = "usage: release prepare REPOSITORY VERSION DATE | release bill REPOSITORY RUST LIBC IMAGE=DIGEST... \
                     < METADATA";
/// The packages whose programs are released.
const PROGRAMS: [&str; 2] = ["metallb-operator", "metallb-balancer"];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["prepare", root, version, date] => {
            let root = Path::new(root);
            let version = Version::parse(version).map_err(|error| format!("VERSION={version:?}: {error}"))?;
            let mut files = BTreeMap::new();
            for path in FILES {
                files.insert(
                    path,
                    fs::read_to_string(root.join(path)).map_err(|error| format!("{path}: {error}"))?,
                );
            }
            for (path, text) in prepare(&files, &version, date)? {
                fs::write(root.join(path), text)?;
            }
        }
        ["bill", root, rust, libc, images @ ..] => {
            let image = |image: &&str| {
                image.split_once('=').map(|(name, digest)| (name.to_owned(), digest.to_owned()))
            };
            let built = Built {
                rust: (*rust).to_owned(),
                libc: (*libc).to_owned(),
                images: images.iter().map(image).collect::<Option<_>>().ok_or(USAGE)?,
            };
            let mut metadata = String::new();
            stdin().read_to_string(&mut metadata)?;
            let lock = fs::read_to_string(Path::new(root).join("Cargo.lock"))?;
            println!("{:#}", bill(&serde_json::from_str(&metadata)?, &lock, &PROGRAMS, &built)?);
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

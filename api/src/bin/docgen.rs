//! Writes the reference of the API into the file given as the only argument.

use std::error::Error;
use std::fs;

use metallb_api::reference;

fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args_os().nth(1).ok_or("usage: docgen FILE")?;
    fs::write(file, reference::markdown()?)?;
    Ok(())
}

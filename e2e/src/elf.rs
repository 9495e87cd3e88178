//! What a program for Linux needs of the machine that runs it, as its file says (ELF, 64 bits, little endian).

use anyhow::{Context, Result, bail};

/// Types of program headers and of entries of the dynamic section (System V ABI, chapter 5).
const DYNAMIC: u64 = 2;
const INTERPRETER: u64 = 3;
const NEEDED: u64 = 1;

/// What a program needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Architecture, as images call it.
    pub architecture: &'static str,
    /// Whether a dynamic loader has to start it.
    pub loader: bool,
    /// How many shared libraries it is linked to.
    pub libraries: usize,
}

/// Reads what the program in `file` needs.
///
/// # Errors
/// When it is no such program, or ends too early.
pub fn needs(file: &[u8]) -> Result<Needs> {
    let number = |offset: usize, size: usize| -> Result<u64> {
        let bytes = file.get(offset..offset.saturating_add(size)).context("the file ends too early")?;
        Ok(bytes.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    };
    if !file.starts_with(b"\x7fELF\x02\x01") {
        bail!("no program for Linux of 64 bits");
    }
    let architecture = match number(18, 2)? {
        62 => "amd64",
        183 => "arm64",
        other => bail!("machine {other}"),
    };
    let mut needs = Needs { architecture, loader: false, libraries: 0 };
    let (headers, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        let header = usize::try_from(headers.saturating_add(index * size))?;
        match number(header, 4)? {
            INTERPRETER => needs.loader = true,
            DYNAMIC => {
                let (start, length) =
                    (number(header.saturating_add(8), 8)?, number(header.saturating_add(32), 8)?);
                for entry in (start..start.saturating_add(length)).step_by(16) {
                    if number(usize::try_from(entry)?, 8)? == NEEDED {
                        needs.libraries += 1;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(needs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program with one header of each of these types, all of which lead to the dynamic section at their end.
    fn program(machine: u16, headers: &[u32], dynamic: &[u64]) -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18..20].copy_from_slice(&machine.to_le_bytes());
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[54..56].copy_from_slice(&56_u16.to_le_bytes());
        file[56..58].copy_from_slice(&u16::try_from(headers.len()).unwrap().to_le_bytes());
        let start = 64 + 56 * headers.len();
        for kind in headers {
            let mut header = [0; 56];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            header[8..16].copy_from_slice(&(start as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(16 * dynamic.len() as u64).to_le_bytes());
            file.extend(header);
        }
        for tag in dynamic {
            file.extend(tag.to_le_bytes());
            file.extend([0; 8]);
        }
        file
    }

    #[test]
    fn what_is_needed_is_read_from_the_headers() {
        let linked = program(183, &[1, 3, 2], &[1, 5, 1, 0]);
        assert_eq!(needs(&linked).unwrap(), Needs { architecture: "arm64", loader: true, libraries: 2 });
        // Static programs that may be placed anywhere have a dynamic section, too.
        let own = program(62, &[1, 2], &[5, 0]);
        assert_eq!(needs(&own).unwrap(), Needs { architecture: "amd64", loader: false, libraries: 0 });
    }

    #[test]
    fn other_files_are_refused() {
        for (file, why) in [
            (b"#!/bin/sh\n".to_vec(), "no program for Linux of 64 bits"),
            (program(243, &[], &[]), "machine 243"),
            (program(62, &[2], &[1])[..100].to_vec(), "the file ends too early"),
        ] {
            assert_eq!(format!("{:#}", needs(&file).unwrap_err()), why);
        }
    }
}

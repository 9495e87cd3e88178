//! What was stored under earlier definitions fits those of today: OLM refuses an upgrade otherwise.

use std::{collections::BTreeSet, fs, path::PathBuf};

use metallb_api::{
    bundle::{
        objects::{id, kind, read, version},
        schema::misfits,
    },
    crd,
};

#[test]
fn every_object_of_earlier_versions_is_still_valid() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let definitions: Vec<_> =
        crd::all().unwrap().iter().map(|definition| serde_json::to_value(definition).unwrap()).collect();
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        for object in read(&fs::read_to_string(&path).unwrap()).unwrap() {
            let of = |definition: &&serde_json::Value| definition["spec"]["names"]["kind"] == kind(&object);
            let definition =
                definitions.iter().find(of).unwrap_or_else(|| panic!("{}: no such kind", id(&object)));
            let versions = definition["spec"]["versions"].as_array().unwrap();
            let served = versions.iter().find(|served| served["name"] == version(&object));
            let served = served.unwrap_or_else(|| panic!("{}: no such version", id(&object)));
            assert_eq!(served["served"], true, "{}", id(&object));
            for part in ["spec", "status"].into_iter().filter(|part| !object[part].is_null()) {
                let found = misfits(&served["schema"]["openAPIV3Schema"]["properties"][part], &object[part]);
                assert_eq!(found, Vec::<String>::new(), "{}: {}", path.display(), id(&object));
            }
            seen.insert(kind(&object).to_owned());
        }
    }
    let written_by_people = [
        "AddressPool",
        "BFDProfile",
        "BGPAdvertisement",
        "BGPPeer",
        "Community",
        "IPAddressPool",
        "L2Advertisement",
        "MetalLB",
    ];
    assert_eq!(seen, written_by_people.map(str::to_owned).into());
}

use super::*;

const HERE: &str = "172.22.0.11:7946";
const THERE: &str = "172.22.0.12:7946";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn seal(secret: &str, session: u8) -> Seal {
    Seal::new(&Secret::new(secret).into(), [session; SESSION])
}

#[test]
fn what_is_sealed_opens_with_the_same_secret_at_the_right_address() {
    let (mut a, b) = (seal("s3cret", 1), seal("s3cret", 2));
    for counter in 0..3 {
        let datagram = a.seal(address(HERE), b"hello", Key::Current);
        assert_eq!(datagram.len(), 5 + OVERHEAD);
        let want = Opened { session: [1; SESSION], counter, message: b"hello".to_vec(), key: Key::Current };
        assert_eq!(b.open(address(HERE), &datagram), Some(want));
        assert_eq!(b.open(address(THERE), &datagram), None, "another member");
        assert_eq!(seal("other", 2).open(address(HERE), &datagram), None, "another secret");
    }
}

#[test]
fn an_ipv6_address_binds_too() {
    let (mut a, b) = (seal("s3cret", 1), seal("s3cret", 2));
    let datagram = a.seal(address("[fd00:22::11]:7946"), b"", Key::Current);
    assert!(b.open(address("[fd00:22::11]:7946"), &datagram).is_some());
    assert_eq!(b.open(address("[fd00:22::12]:7946"), &datagram), None);
    assert_eq!(b.open(address("[fd00:22::11]:7947"), &datagram), None);
}

#[test]
fn no_changed_or_truncated_datagram_opens() {
    let (mut a, b) = (seal("s3cret", 1), seal("s3cret", 2));
    let datagram = a.seal(address(HERE), b"hello", Key::Current);
    for length in 0..datagram.len() {
        assert_eq!(b.open(address(HERE), &datagram[..length]), None, "cut to {length}");
    }
    for at in 0..datagram.len() {
        for value in (0..=255).filter(|value| *value != datagram[at]) {
            let mut changed = datagram.clone();
            changed[at] = value;
            assert_eq!(b.open(address(HERE), &changed), None, "byte {at} = {value}");
        }
    }
}

#[test]
fn a_secret_shows_nothing() {
    assert_eq!(format!("{:?}", Secret::new("s3cret")), "Secret(..)");
}

#[test]
fn while_a_secret_changes_both_are_opened() {
    let secrets = |current: &str, previous: Option<&str>| Secrets {
        current: Secret::new(current),
        previous: previous.map(Secret::new),
    };
    let opened = |seal: &Seal, datagram: &[u8]| seal.open(address(HERE), datagram).map(|opened| opened.key);
    let (mut old, mut new) = (seal("old", 1), seal("new", 2));
    let mut changing = Seal::new(&secrets("new", Some("old")), [3; SESSION]);
    let by_old = old.seal(address(HERE), b"", Key::Current);
    let by_new = new.seal(address(HERE), b"", Key::Current);
    assert_eq!(opened(&changing, &by_old), Some(Key::Previous));
    assert_eq!(opened(&changing, &by_new), Some(Key::Current));
    for (key, by_the_old, by_the_new) in
        [(Key::Previous, Some(Key::Current), None), (Key::Current, None, Some(Key::Current))]
    {
        let datagram = changing.seal(address(HERE), b"", key);
        assert_eq!((opened(&old, &datagram), opened(&new, &datagram)), (by_the_old, by_the_new));
    }
    changing.replace(&secrets("new", None));
    assert_eq!(opened(&changing, &by_old), None);
}

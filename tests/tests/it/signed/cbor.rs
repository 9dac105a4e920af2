//! CBOR as a tree, to write one value in every way but the only one, and to change each of its leaves. It reads golden
//! payloads alone and believes nothing.

/// One CBOR item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    Number(u64),
    Negative(u64),
    Bytes(Vec<u8>),
    Text(Vec<u8>),
    Array(Vec<Item>),
    Map(Vec<(Item, Item)>),
    Simple(u8),
}

/// How one item of a tree is written differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Twist {
    /// Its head in so many bytes after the first, which is more than it needs: 1, 2, 4 or 8.
    Long(u8),
    /// With an indefinite length.
    Indefinite,
    /// A map from its last key to its first.
    Backwards,
    /// A map with its first key twice.
    Repeated,
    /// A map with a field nobody knows, this one, at its end.
    Unknown(u64),
    /// A map with an explicit null for a field that is absent, this one, in its place.
    Null(u64),
    /// An array or a map without its last element.
    Short,
    /// Behind a tag.
    Tagged,
    /// A simple value in two bytes.
    TwoBytes,
}

/// All twists there are; most change nothing about most items.
pub(super) fn twists() -> impl Iterator<Item = Twist> {
    let numbers = (0..=12).chain([23, 24, 255, 256, 65_536, u64::MAX]);
    let plain = [Twist::Indefinite, Twist::Backwards, Twist::Repeated, Twist::Short, Twist::Tagged, Twist::TwoBytes];
    let long = [1, 2, 4, 8].map(Twist::Long);
    plain.into_iter().chain(long).chain(numbers.flat_map(|number| [Twist::Unknown(number), Twist::Null(number)]))
}

/// The item in `bytes`, which must be canonical and complete.
pub(super) fn parse(bytes: &[u8]) -> Item {
    let mut rest = bytes;
    let item = take(&mut rest);
    assert!(rest.is_empty(), "bytes behind the item");
    assert_eq!(write(&item, None), bytes, "not what this writer writes");
    item
}

fn take(rest: &mut &[u8]) -> Item {
    let first = cut(rest, 1)[0];
    let small = first & 31;
    let number = match small {
        0..=23 => u64::from(small),
        24..=27 => cut(rest, 1 << (small - 24)).iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        _ => panic!("an indefinite length"),
    };
    let count = usize::try_from(number).unwrap_or(usize::MAX);
    match first >> 5 {
        0 => Item::Number(number),
        1 => Item::Negative(number),
        2 => Item::Bytes(cut(rest, count).to_vec()),
        3 => Item::Text(cut(rest, count).to_vec()),
        4 => Item::Array((0..count).map(|_| take(rest)).collect()),
        5 => Item::Map((0..count).map(|_| (take(rest), take(rest))).collect()),
        7 if small < 24 => Item::Simple(small),
        _ => panic!("an item no statement has"),
    }
}

fn cut<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (here, after) = rest.split_at(count);
    *rest = after;
    here
}

/// How many items a tree has, itself, keys and values.
pub(super) fn count(item: &Item) -> usize {
    1 + match item {
        Item::Array(items) => items.iter().map(count).sum(),
        Item::Map(pairs) => pairs.iter().map(|(key, value)| count(key) + count(value)).sum(),
        _ => 0,
    }
}

/// The bytes of a tree, the item of one number (in the order of writing) with a twist.
pub(super) fn write(item: &Item, twist: Option<(usize, Twist)>) -> Vec<u8> {
    let mut writer = Writer { out: Vec::new(), next: 0, twist };
    writer.item(item);
    writer.out
}

struct Writer {
    out: Vec<u8>,
    next: usize,
    twist: Option<(usize, Twist)>,
}

impl Writer {
    fn item(&mut self, item: &Item) {
        let twist = self.twist.filter(|(at, _)| *at == self.next).map(|(_, twist)| twist);
        self.next += 1;
        if twist == Some(Twist::Tagged) {
            self.out.push(0xc1);
        }
        match item {
            Item::Number(number) => self.head(0, *number, twist),
            Item::Negative(number) => self.head(1, *number, twist),
            Item::Bytes(bytes) => self.string(2, bytes, twist),
            Item::Text(text) => self.string(3, text, twist),
            Item::Simple(value) if twist == Some(Twist::TwoBytes) => self.out.extend([0xf8, *value]),
            Item::Simple(value) => self.out.push(0xe0 | value),
            Item::Array(items) => {
                let items: Vec<(Option<Item>, Item)> = items.iter().map(|item| (None, item.clone())).collect();
                self.list(4, items, twist);
            }
            Item::Map(pairs) => {
                let pairs = pairs.iter().map(|(key, value)| (Some(key.clone()), value.clone())).collect();
                self.list(5, pairs, twist);
            }
        }
    }

    fn list(&mut self, major: u8, mut pairs: Vec<(Option<Item>, Item)>, twist: Option<Twist>) {
        let is_map = major == 5;
        match twist {
            Some(Twist::Backwards) if is_map => pairs.reverse(),
            Some(Twist::Repeated) if is_map => pairs.extend(pairs.first().cloned()),
            Some(Twist::Short) => drop(pairs.pop()),
            Some(Twist::Unknown(key)) if is_map => pairs.push((Some(Item::Number(key)), Item::Number(0))),
            Some(Twist::Null(key)) if is_map => {
                let before = |(other, _): &(Option<Item>, Item)| matches!(other, Some(Item::Number(it)) if *it < key);
                let at = pairs.iter().take_while(|pair| before(pair)).count();
                pairs.insert(at, (Some(Item::Number(key)), Item::Simple(22)));
            }
            _ => {}
        }
        if twist == Some(Twist::Indefinite) {
            self.out.push(major << 5 | 31);
        } else {
            self.head(major, pairs.len() as u64, twist);
        }
        for (key, value) in &pairs {
            key.iter().for_each(|key| self.item(key));
            self.item(value);
        }
        if twist == Some(Twist::Indefinite) {
            self.out.push(0xff);
        }
    }

    fn string(&mut self, major: u8, bytes: &[u8], twist: Option<Twist>) {
        if twist == Some(Twist::Indefinite) {
            self.out.push(major << 5 | 31);
        }
        self.head(major, bytes.len() as u64, twist);
        self.out.extend_from_slice(bytes);
        if twist == Some(Twist::Indefinite) {
            self.out.push(0xff);
        }
    }

    fn head(&mut self, major: u8, number: u64, twist: Option<Twist>) {
        let needs = match number {
            0..=23 => 0,
            24..=0xff => 1,
            0x100..=0xffff => 2,
            0x1_0000..=0xffff_ffff => 4,
            _ => 8,
        };
        let bytes = match twist {
            Some(Twist::Long(bytes)) if bytes > needs => bytes,
            _ => needs,
        };
        let small = match bytes {
            0 => u8::try_from(number).unwrap_or(0),
            _ => 24 + u8::try_from(bytes.trailing_zeros()).unwrap_or(0),
        };
        self.out.push(major << 5 | small);
        self.out.extend_from_slice(&number.to_be_bytes()[8 - usize::from(bytes)..]);
    }
}

/// The tree with each of its leaves changed, one at a time, in some ways each; field numbers stay.
pub(super) fn changed(item: &Item) -> Vec<Item> {
    match item {
        Item::Number(number) => {
            let others = [number.wrapping_add(1), number.wrapping_sub(1), number ^ 1 << 40, 0];
            others.into_iter().filter(|other| other != number).map(Item::Number).collect()
        }
        Item::Negative(number) => vec![Item::Negative(number ^ 1)],
        Item::Bytes(bytes) => strings(bytes).into_iter().map(Item::Bytes).collect(),
        Item::Text(text) => strings(text).into_iter().map(Item::Text).collect(),
        Item::Simple(value) => vec![Item::Simple(value ^ 1)],
        Item::Array(items) => {
            let mut out = vec![Item::Array(items.iter().skip(1).cloned().collect())];
            for (at, inner) in items.iter().enumerate() {
                out.extend(changed(inner).into_iter().map(|other| {
                    let mut items = items.clone();
                    items[at] = other;
                    Item::Array(items)
                }));
            }
            out.retain(|other| other != item);
            out
        }
        Item::Map(pairs) => {
            let mut out = Vec::new();
            for (at, (_, inner)) in pairs.iter().enumerate() {
                out.extend(changed(inner).into_iter().map(|other| {
                    let mut pairs = pairs.clone();
                    pairs[at].1 = other;
                    Item::Map(pairs)
                }));
                // An optional field that is missing is another statement.
                let mut fewer = pairs.clone();
                fewer.remove(at);
                out.push(Item::Map(fewer));
            }
            out
        }
    }
}

/// One byte changed at either end and in the middle, and one byte fewer.
fn strings(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut out: Vec<Vec<u8>> = [0, bytes.len() / 2, bytes.len().saturating_sub(1)]
        .into_iter()
        .filter(|at| *at < bytes.len())
        .map(|at| {
            let mut other = bytes.to_vec();
            other[at] ^= 1;
            other
        })
        .collect();
    out.extend((!bytes.is_empty()).then(|| bytes[1..].to_vec()));
    out
}

#[test]
fn the_writer_twists_what_it_says() {
    let map = Item::Map(vec![(Item::Number(0), Item::Number(7)), (Item::Number(2), Item::Bytes(vec![1]))]);
    assert_eq!(write(&map, None), [0xa2, 0, 7, 2, 0x41, 1]);
    assert_eq!((parse(&write(&map, None)), count(&map)), (map.clone(), 5));
    for (at, twist, bytes) in [
        (0, Twist::Indefinite, &[0xbf, 0, 7, 2, 0x41, 1, 0xff][..]),
        (0, Twist::Backwards, &[0xa2, 2, 0x41, 1, 0, 7]),
        (0, Twist::Repeated, &[0xa3, 0, 7, 2, 0x41, 1, 0, 7]),
        (0, Twist::Unknown(9), &[0xa3, 0, 7, 2, 0x41, 1, 9, 0]),
        (0, Twist::Null(1), &[0xa3, 0, 7, 1, 0xf6, 2, 0x41, 1]),
        (0, Twist::Short, &[0xa1, 0, 7]),
        (2, Twist::Long(2), &[0xa2, 0, 0x19, 0, 7, 2, 0x41, 1]),
        (2, Twist::Tagged, &[0xa2, 0, 0xc1, 7, 2, 0x41, 1]),
        (4, Twist::Indefinite, &[0xa2, 0, 7, 2, 0x5f, 0x41, 1, 0xff]),
        (4, Twist::Long(1), &[0xa2, 0, 7, 2, 0x58, 1, 1]),
    ] {
        assert_eq!(write(&map, Some((at, twist))), bytes, "{twist:?} of item {at}");
    }
    let all = changed(&map);
    assert!(!all.contains(&map) && all.contains(&Item::Map(vec![(Item::Number(0), Item::Number(7))])), "{all:?}");
}

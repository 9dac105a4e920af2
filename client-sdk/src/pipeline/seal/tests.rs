//! Both implementations against published vectors and against one golden file.

use core::fmt::Write as _;

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> [u8; N] {
    core::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
}

/// Ciphertext and tag of both implementations, which must agree, after both opened it.
fn seal_both(suite: Suite, key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], plain: &[u8]) -> (Vec<u8>, [u8; TAG]) {
    let (native, portable) = (native::Aead::new(suite, key), portable::Aead::new(suite, key));
    let (mut a, mut b) = (plain.to_vec(), plain.to_vec());
    let tag = native.seal(nonce, aad, &mut a);
    assert_eq!((tag, &a), (portable.seal(nonce, aad, &mut b), &b), "implementations differ");
    for seal_into in [native_into(&native, nonce, aad, plain), portable_into(&portable, nonce, aad, plain)] {
        assert_eq!(seal_into, (a.clone(), tag), "in place and out of place differ");
    }
    let (mut opened, mut opened_too) = (a.clone(), a.clone());
    native.open(nonce, aad, &mut opened, &tag).unwrap();
    portable.open(nonce, aad, &mut opened_too, &tag).unwrap();
    assert_eq!((opened.as_slice(), opened_too.as_slice()), (plain, plain));
    let (mut into, mut into_too) = (vec![0xee; plain.len()], vec![0xee; plain.len()]);
    native.open_into(nonce, aad, &a, &tag, &mut into).unwrap();
    portable.open_into(nonce, aad, &a, &tag, &mut into_too).unwrap();
    assert_eq!((into.as_slice(), into_too.as_slice()), (plain, plain));
    let mut bad = tag;
    bad[15] ^= 0x80;
    assert_eq!(native.open(nonce, aad, &mut a.clone(), &bad), Err(TagMismatch));
    assert_eq!(portable.open(nonce, aad, &mut a.clone(), &bad), Err(TagMismatch));
    assert_eq!(native.open_into(nonce, aad, &a, &bad, &mut into), Err(TagMismatch));
    assert_eq!(portable.open_into(nonce, aad, &a, &bad, &mut into_too), Err(TagMismatch));
    (a, tag)
}

fn native_into(aead: &native::Aead, nonce: &[u8; 12], aad: &[u8], plain: &[u8]) -> (Vec<u8>, [u8; TAG]) {
    let (mut out, mut tag) = (vec![0xee; plain.len()], [0; TAG]);
    aead.seal_into(nonce, aad, plain, &mut out, &mut tag);
    (out, tag)
}

fn portable_into(aead: &portable::Aead, nonce: &[u8; 12], aad: &[u8], plain: &[u8]) -> (Vec<u8>, [u8; TAG]) {
    let (mut out, mut tag) = (vec![0xee; plain.len()], [0; TAG]);
    aead.seal_into(nonce, aad, plain, &mut out, &mut tag);
    (out, tag)
}

/// Mask bytes `offset..offset + length` of both implementations, which must agree.
fn mask_both(suite: Suite, key: [u8; 32], offset: usize, length: usize) -> Vec<u8> {
    let mut native = vec![0; length];
    Mask::new(suite, &MaskKey::new(key)).apply(offset, &mut native);
    if suite == Suite::Aes256Gcm {
        let mut portable = vec![0; length];
        let ctr = portable::Ctr::new(&key);
        apply_ctr(offset, &mut portable, |block, bytes| ctr.apply(block, bytes));
        assert_eq!(native, portable, "implementations differ");
    }
    native
}

#[test]
fn chacha20_poly1305_matches_rfc_8439_section_2_8_2() {
    let key = core::array::from_fn(|i| 0x80 + i as u8);
    let nonce = unhex("070000004041424344454647");
    let aad: [u8; 12] = unhex("50515253c0c1c2c3c4c5c6c7");
    let plain = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
    let (sealed, tag) = seal_both(Suite::ChaCha20Poly1305, &key, &nonce, &aad, plain);
    assert_eq!(hex(&sealed[..16]), "d31a8d34648e60db7b86afbc53ef7ec2");
    assert_eq!(hex(&tag), "1ae10b594f09e26a7e902ecbd0600691");
}

#[test]
fn aes_256_gcm_matches_test_cases_13_and_14_of_its_specification() {
    let (sealed, tag) = seal_both(Suite::Aes256Gcm, &[0; 32], &[0; 12], &[], &[]);
    assert_eq!((hex(&sealed).as_str(), hex(&tag).as_str()), ("", "530f8afbc74536b9a963b4f1c4cb738b"));
    let (sealed, tag) = seal_both(Suite::Aes256Gcm, &[0; 32], &[0; 12], &[], &[0; 16]);
    assert_eq!(hex(&sealed), "cea7403d4d606b6e074ec5d3baf39d18");
    assert_eq!(hex(&tag), "d0d1c8a799996bf0265b98b5d48ab919");
}

#[test]
fn aes_256_ctr_matches_sp_800_38a_f_5_5() {
    let key = unhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
    let counter = u128::from_be_bytes(unhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"));
    let plain: [u8; 32] = unhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
    let (mut a, mut b) = (plain, plain);
    native::Ctr::new(&key).apply(counter, &mut a);
    portable::Ctr::new(&key).apply(counter, &mut b);
    assert_eq!(hex(&a), "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5");
    assert_eq!(a, b);
}

#[test]
fn chacha20_mask_matches_rfc_8439_appendix_a_1() {
    let stream = mask_both(Suite::ChaCha20Poly1305, [0; 32], 0, 128);
    assert_eq!(hex(&stream[..32]), "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7");
    assert_eq!(hex(&stream[64..96]), "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed");
}

#[test]
fn mask_at_any_offset_is_a_slice_of_the_whole_mask() {
    for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
        let whole = mask_both(suite, [0x42; 32], 0, 70_000);
        for offset in (0..200).chain([4095, 4096, 65_519, 65_520, 65_535, 65_536, 69_999]) {
            for length in [0, 1, 2, 15, 16, 17, 63, 64, 65, 1000] {
                let length = length.min(whole.len() - offset);
                let part = mask_both(suite, [0x42; 32], offset, length);
                assert!(part == whole[offset..offset + length], "{suite} {offset} {length}");
            }
        }
    }
}

#[test]
fn both_implementations_match_the_golden_file() {
    let key = core::array::from_fn(|i| 0xa0 + i as u8);
    let plain: Vec<u8> = (0..100).collect();
    let mut text = String::new();
    for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
        for counter in [0, 7, 0x0102_0304] {
            let nonce = shoal_protocol::sealing::nonce(counter);
            let (sealed, tag) = seal_both(suite, &key, &nonce, b"associated data", &plain);
            writeln!(text, "{suite} seal {counter} = {}{}", hex(&sealed), hex(&tag)).unwrap();
        }
        for offset in [0, 5, 65_536, 2_097_088] {
            writeln!(text, "{suite} mask {offset} = {}", hex(&mask_both(suite, key, offset, 64))).unwrap();
        }
    }
    assert_eq!(text, include_str!("../../../golden/seal.txt"));
}

//! Growth of lists of which there are millions: by a quarter, where a [`Vec`] doubles. So at most a fifth of the memory
//! is unused, and until a list has its length each element is copied five times at most on average.

/// The first capacity of a list, and the smallest step by which it grows.
const STEP_MIN: usize = 4;

/// Makes space for one more element.
#[inline]
pub(crate) fn reserve_one<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact((list.len() / 4).max(STEP_MIN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_grows_by_a_quarter() {
        let (mut list, mut copied) = (Vec::new(), 0);
        for at in 0..100_000_usize {
            let capacity = list.capacity();
            reserve_one(&mut list);
            if list.capacity() > capacity {
                copied += at;
            }
            list.push(at);
            assert!(list.capacity() <= list.len() + (at / 4).max(STEP_MIN));
        }
        assert!(copied < 5 * list.len(), "{copied}");
    }
}

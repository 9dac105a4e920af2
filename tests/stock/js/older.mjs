// What js-libp2p takes for granted and Node 20 does not have yet, as the standard defines it. It changes nothing where
// the function is there.

Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new this((yes, no) => { resolve = yes; reject = no })
  return { promise, resolve, reject }
}

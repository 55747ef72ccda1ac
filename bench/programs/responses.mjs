// Cuts the bytes that a server sends on one HTTP/1.1 connection into responses and throws their bodies away.

/** A function for the bytes as they come; it calls `onResponse(status, head)` for each whole response, interim ones included. */
export function responseReader(onResponse) {
  let text = '';
  return (bytes) => {
    text += bytes.latin1Slice();
    for (let end = endOfResponse(text); end > 0; end = endOfResponse(text)) {
      const head = text.slice(0, text.indexOf('\r\n\r\n'));
      text = text.slice(end);
      onResponse(Number(head.slice(9, 12)), head);
    }
  };
}

/** 0 while it is not whole. */
function endOfResponse(text) {
  const headEnd = text.indexOf('\r\n\r\n') + 4;
  if (headEnd < 4) return 0;
  const head = text.slice(0, headEnd);
  if (/^HTTP\/1\.1 (?:1|204)/.test(head)) return headEnd;
  if (/\r\ntransfer-encoding: *chunked/i.test(head)) {
    const last = text.indexOf('0\r\n\r\n', headEnd);
    return last < 0 ? 0 : last + 5;
  }
  const length = Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? 0);
  return text.length < headEnd + length ? 0 : headEnd + length;
}

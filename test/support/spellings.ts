/** A text as programs may write it: as it is, percent-encoded, in hexadecimal digits, and within a Base64 text. */
export function spellingsOf(text: string): string[] {
  const bytes = Buffer.from(text);
  const hex = bytes.toString('hex');
  const percent = [...bytes].map((byte) => `%${byte.toString(16).padStart(2, '0')}`).join('');
  // The digits of the first and the last bytes depend on their neighbours.
  const inner = [0, 1, 2].flatMap((shift) => {
    const padded = Buffer.concat([Buffer.alloc(shift), bytes]);
    const wholeBytes = padded.length - (padded.length % 3);
    const digits = padded
      .subarray(0, wholeBytes)
      .toString('base64')
      .slice(shift === 0 ? 0 : 4);
    return [digits, digits.replaceAll('+', '-').replaceAll('/', '_')];
  });
  return [
    ...new Set([text, encodeURIComponent(text), hex, hex.toUpperCase(), percent, percent.toUpperCase(), ...inner]),
  ];
}

/** How often some spelling of the text is in the bytes. */
export function occurrences(bytes: Buffer, text: string): number {
  return spellingsOf(text).filter((spelling) => bytes.includes(spelling)).length;
}

/**
 * The text without a run of these characters at its end. A pattern like `/[. ]+$/` would do the same, but looks at a run
 * that is not at the end once from each of its characters: the square of its length, for a client to choose.
 */
export function withoutEnd(text: string, characters: string): string {
  let length = text.length;
  while (length > 0 && characters.includes(text[length - 1]!)) length--;
  return text.slice(0, length);
}

/** They say "a piece follows", which the origin would take for the type of the whole. */
const TYPES_OF_PIECES = new Set(['application/partial-upload', 'application/offset+octet-stream']);

/** The media type of the whole representation, from the creation's `Content-Type`. */
export function wholeType(contentType: string | undefined): string {
  const type = contentType?.split(';', 1)[0]?.trim().toLowerCase();
  return contentType === undefined || TYPES_OF_PIECES.has(type ?? '') ? 'application/octet-stream' : contentType;
}

const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const NO_VALUE_OCTET = /[^\t\x20-\x7e\x80-\xff]/;

/** Whether a text is a token (RFC 9110 §5.6.2): a method or the name of a field. */
export function isToken(text: string): boolean {
  return TOKEN.test(text);
}

/** Whether a text can be the value of a field (RFC 9110 §5.5), with one character per octet. */
export function isFieldValue(text: string): boolean {
  return !NO_VALUE_OCTET.test(text);
}

const BLOCK = 1024 * 1024;
/** A page has to hold all of a file in memory for its hash. */
const LARGEST_HASHED = 512 * BLOCK;

/** A file that looks random but is the same every time, so that an upload of it goes on after a reload. */
export function sampleFile(size) {
  const blocks = [];
  let state = size | 1;
  for (let made = 0; made < size; made += BLOCK) {
    const words = new Uint32Array(Math.min(BLOCK, size - made) / 4);
    for (let at = 0; at < words.length; at++) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      words[at] = state;
    }
    blocks.push(words);
  }
  return new File(blocks, `sample-${size / BLOCK}-MiB.bin`, { type: 'application/octet-stream', lastModified: 0 });
}

/** The SHA-256 of a file in hex digits, or the reason why it is not computed. */
export async function sha256Of(file) {
  if (!globalThis.crypto?.subtle) return { reason: 'not computed: browsers do so only for https and this machine' };
  if (file.size > LARGEST_HASHED) return { reason: 'not computed: the file is larger than 512 MiB' };
  try {
    const digest = await crypto.subtle.digest('SHA-256', await file.arrayBuffer());
    return { hex: Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('') };
  } catch (error) {
    return { reason: `not computed: ${error.message}` };
  }
}

/**
 * The path to which a file is sent. It is the same for the same file until `forgetTarget`, so that an upload goes on
 * after a reload.
 */
export function targetOf(client, file) {
  const key = keyOf(client, file);
  const stored = recall(key);
  if (stored) return stored;
  const id = Array.from(crypto.getRandomValues(new Uint8Array(4)), (byte) => byte.toString(16).padStart(2, '0')).join(
    '',
  );
  const name = encodeURIComponent(file.name.slice(-80).replace(/^\.+/, '') || 'file');
  const target = `/files/${id}/${name}`;
  attempt(() => localStorage.setItem(key, target));
  return target;
}

export function forgetTarget(client, file) {
  attempt(() => localStorage.removeItem(keyOf(client, file)));
}

function keyOf(client, { name, size, lastModified }) {
  return `demo ${client} ${size} ${lastModified} ${name}`;
}

function recall(key) {
  return attempt(() => localStorage.getItem(key));
}

function attempt(act) {
  try {
    return act();
  } catch {
    // The browser lets this page store nothing; then an upload does not survive a reload.
    return undefined;
  }
}

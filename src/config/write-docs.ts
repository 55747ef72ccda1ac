import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { generatedFiles } from './docs.js';

/** Writes the generated files; run by "npm run docs". */
const root = new URL('../../', import.meta.url);
for (const [name, content] of Object.entries(generatedFiles())) {
  writeFileSync(fileURLToPath(new URL(name, root)), content);
}

import { renderDocs } from './docs.js';
import { renderExample } from './example.js';
import { jsonSchema } from './json-schema.js';

/** What is made from the schema, by its path in the project. */
export function generatedFiles(): Readonly<Record<string, string>> {
  return {
    'config/schema.json': `${JSON.stringify(jsonSchema(), null, 2)}\n`,
    'config/rufh-proxy.example.yaml': renderExample(),
    'docs/configuration.md': renderDocs(),
  };
}

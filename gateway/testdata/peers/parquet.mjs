// Prints the rows of Parquet files, a JSON object a line, as hyparquet reads
// them. Arguments: the directory of its packages, then the files.
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const [modules, ...files] = process.argv.slice(2)
const require = createRequire(modules + '/')
const load = name => import(pathToFileURL(require.resolve(name)).href)
const { asyncBufferFromFile, parquetReadObjects, parquetMetadataAsync } = await import(pathToFileURL(modules + '/node_modules/hyparquet/src/node.js').href)
const { compressors } = await import(pathToFileURL(modules + '/node_modules/hyparquet-compressors/src/index.js').href)

const plain = (_, v) => typeof v === 'bigint' ? Number(v) : v instanceof Uint8Array ? Buffer.from(v).toString('base64') : v
for (const name of files) {
  const file = await asyncBufferFromFile(name)
  const metadata = await parquetMetadataAsync(file)
  for (const row of await parquetReadObjects({ file, metadata, compressors })) console.log(JSON.stringify(row, plain))
}

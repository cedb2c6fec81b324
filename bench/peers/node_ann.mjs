// zvec and LanceDB through their npm packages, as systems under measurement: the protocol stands in
// driver.h. argv: zvec|lancedb, then the options of any driver. The binding's own cost (objects made
// for each hit, the event loop) is in the figures: a user of the package has it too.
import fs from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';

function fail(message) {
    process.stdout.write(JSON.stringify({ error: String(message).slice(0, 390) }) + '\n');
    process.exit(1);
}

function say(answer) {
    fs.writeSync(1, JSON.stringify(answer) + '\n');
}

function readFbin(file) {
    const bytes = fs.readFileSync(file);
    const n = bytes.readUInt32LE(0), dim = bytes.readUInt32LE(4);
    if (bytes.length !== 8 + n * dim * 4)
        throw new Error(`${file}: is no fbin file`);
    const rows = new Float32Array(n * dim);
    new Uint8Array(rows.buffer).set(bytes.subarray(8));
    return { n, dim, rows, at: (i) => rows.subarray(i * dim, (i + 1) * dim) };
}

// "a=1,b=2" as an object of numbers.
function settings(text) {
    return Object.fromEntries(text.split(',').filter(Boolean).map((word) => {
        const [name, value] = word.split('=');
        return [name, Number(value)];
    }));
}

function folderBytes(folder) {
    let sum = 0;
    for (const entry of fs.readdirSync(folder, { withFileTypes: true, recursive: true }))
        if (entry.isFile())
            sum += fs.statSync(path.join(entry.parentPath ?? entry.path, entry.name)).size;
    return sum;
}

function cpuUs() {
    const used = process.cpuUsage();
    return used.user + used.system;
}

const wallUs = () => Number(process.hrtime.bigint()) / 1000;

// Attributes of the base's rows, f64 [n][2]: columns a and p. See ../filter.h.
const columns = ['a', 'p'];
function readValues(file, n) {
    const bytes = fs.readFileSync(file);
    if (bytes.length !== n * columns.length * 8)
        throw new Error(`${file}: has no ${n} rows of attributes`);
    return new Float64Array(bytes.buffer, bytes.byteOffset, n * columns.length);
}

// One range a query: { column, of(i) -> [low, high) }.
function readRanges(file) {
    const bytes = fs.readFileSync(file);
    const all = new Float64Array(bytes.buffer, bytes.byteOffset, bytes.length / 8);
    return { column: columns[all[0]], of: (i) => all.subarray(1 + 2 * i, 3 + 2 * i) };
}

// Each system: make(base, metric, build, folder, values) once, values NULL without attributes; then
// set(text) and search(vector, k, range) -> ids, range { column, low, high } or null.

async function zvec(threads) {
    const z = (await import('@zvec/zvec')).default;
    let collection, query;
    z.ZVecInitialize({ logLevel: z.ZVecLogLevel.ERROR, queryThreads: threads,
        optimizeThreads: threads });
    return {
        make(base, metric, build, folder, values) {
            const metrics = { l2: z.ZVecMetricType.L2, ip: z.ZVecMetricType.IP,
                cosine: z.ZVecMetricType.COSINE };
            const schema = new z.ZVecCollectionSchema({
                name: 'bench',
                fields: values ? columns.map((name) => ({ name, dataType: z.ZVecDataType.DOUBLE,
                    indexParams: { indexType: z.ZVecIndexType.INVERT,
                        enableRangeOptimization: true } })) : [],
                vectors: {
                    name: 'v', dataType: z.ZVecDataType.VECTOR_FP32, dimension: base.dim,
                    indexParams: { indexType: z.ZVecIndexType.HNSW, metricType: metrics[metric],
                        m: build.M ?? 16, efConstruction: build.efC ?? 200 },
                },
            });
            collection = z.ZVecCreateAndOpen(path.join(folder, 'zvec'), schema);
            for (let i = 0; i < base.n; i += 1000) {
                const docs = [];
                for (let j = i; j < Math.min(i + 1000, base.n); j++)
                    docs.push({ id: String(j), vectors: { v: base.at(j) }, fields: values ?
                        { a: values[2 * j], p: values[2 * j + 1] } : {} });
                const wrong = collection.insertSync(docs).find((status) => !status.ok);
                if (wrong)
                    throw new Error(`insert: ${wrong.message ?? wrong.code}`);
            }
            collection.optimizeSync({ concurrency: threads });
        },
        set(text) {
            query = { indexType: z.ZVecIndexType.HNSW, ef: settings(text).ef };
        },
        search(vector, k, range) {
            const filter = range ? { filter: `${range.column} >= ${range.low.toPrecision(17)} and ` +
                `${range.column} < ${range.high.toPrecision(17)}` } : {};
            return collection.querySync({ fieldName: 'v', topk: k, vector, outputFields: [],
                params: query, ...filter }).map((hit) => Number(hit.id));
        },
    };
}

async function lancedb() {
    const lance = await import('@lancedb/lancedb');
    const arrow = await import('apache-arrow');
    let table, query, distance;
    return {
        async make(base, metric, build, folder, values) {
            const db = await lance.connect(path.join(folder, 'lance'));
            const item = new arrow.Field('item', new arrow.Float32());
            const schema = new arrow.Schema([
                new arrow.Field('id', new arrow.Int32()),
                new arrow.Field('v', new arrow.FixedSizeList(base.dim, item)),
                ...(values ? columns.map((name) => new arrow.Field(name, new arrow.Float64())) : []),
            ]);
            distance = { l2: 'l2', ip: 'dot', cosine: 'cosine' }[metric];
            for (let i = 0; i < base.n; i += 20000) {
                const rows = [];
                for (let j = i; j < Math.min(i + 20000, base.n); j++)
                    rows.push({ id: j, v: Array.from(base.at(j)), ...(values ?
                        { a: values[2 * j], p: values[2 * j + 1] } : {}) });
                if (table)
                    await table.add(lance.makeArrowTable(rows, { schema }));
                else
                    table = await db.createTable('bench', lance.makeArrowTable(rows, { schema }));
            }
            await table.optimize();
            await table.createIndex('v', {
                config: lance.Index.ivfPq({ distanceType: distance, numPartitions: build.nlist,
                    numSubVectors: build.parts, numBits: 4 }),
                waitTimeoutSeconds: 3600,
            });
            for (const name of values ? columns : [])
                await table.createIndex(name, { config: lance.Index.btree(),
                    waitTimeoutSeconds: 3600 });
        },
        set(text) {
            query = settings(text);
        },
        async search(vector, k, range) {
            let asked = table.query().nearestTo(vector).distanceType(distance)
                .nprobes(query.nprobe).refineFactor(query.refine).limit(k).select(['id', '_distance']);
            if (range)
                asked = asked.where(`${range.column} >= ${range.low} AND ${range.column} < ${range.high}`);
            const found = await asked.toArrow();
            return Array.from(found.getChild('id')?.toArray() ?? []); // no column without rows
        },
    };
}

async function measure(system, queries, k, ranges, words, out) {
    const [first, count] = words.map(Number);
    const ids = new BigInt64Array(count * k).fill(-1n), took = new Float64Array(count);
    const cpu = cpuUs(), wall = wallUs();
    for (let i = 0; i < count; i++) {
        const start = wallUs();
        const [low, high] = ranges ? ranges.of(first + i) : [];
        const range = ranges ? { column: ranges.column, low, high } : null;
        const found = await system.search(queries.at(first + i), k, range);
        took[i] = wallUs() - start;
        for (let j = 0; j < found.length && j < k; j++)
            ids[i * k + j] = BigInt(found[j]);
    }
    const answer = { wall_us: wallUs() - wall, cpu_us: cpuUs() - cpu };
    took.sort();
    if (out !== '-')
        fs.writeFileSync(out, new Uint8Array(ids.buffer));
    say({ ...answer, p50_us: took[count >> 1], p99_us: took[Math.floor(count * 99 / 100)], reads: 0,
        read_bytes: 0, rss_kb: Math.round(process.memoryUsage.rss() / 1024) });
}

async function main(name, argv) {
    const options = { '--metric': 'l2', '--k': '10', '--threads': '1', '--build': '' };
    for (let i = 0; i + 1 < argv.length; i += 2)
        options[argv[i]] = argv[i + 1];
    if (!['zvec', 'lancedb'].includes(name) || !options['--base'] || !options['--queries']) {
        process.stderr.write('usage: node_ann.mjs zvec|lancedb --base F.fbin --queries F.fbin ' +
            '[--metric M] [--k K] [--threads N] [--build TEXT]; commands: driver.h\n');
        process.exit(2);
    }
    const threads = Number(options['--threads']), k = Number(options['--k']);
    process.env.RUST_LOG ??= 'error';
    process.env.LANCE_CPU_THREADS = String(threads);
    // Beside the base: that folder is the bench's own and goes with it, also if this process is killed.
    const folder = fs.mkdtempSync(path.join(path.dirname(options['--base']), 'node_ann.'));
    process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }));
    const system = name === 'zvec' ? await zvec(threads) : await lancedb();
    const queries = readFbin(options['--queries']), base = readFbin(options['--base']);
    const values = options['--attributes'] ? readValues(options['--attributes'], base.n) : null;
    let ranges = null;
    const cpu = cpuUs(), wall = wallUs();
    await system.make(base, options['--metric'], settings(options['--build']), folder, values);
    if (globalThis.gc)
        globalThis.gc();
    say({ ready: 1, rss_kb: Math.round(process.memoryUsage.rss() / 1024),
        build_wall_us: wallUs() - wall, build_cpu_us: cpuUs() - cpu,
        db_bytes: folderBytes(folder) });
    for await (const line of readline.createInterface({ input: process.stdin })) {
        const words = line.trim().split(' ');
        if (words[0] === 'quit') {
            break;
        } else if (words[0] === 'set' && words[1]?.startsWith('ranges=')) {
            ranges = words[1].length > 7 ? readRanges(words[1].slice(7)) : null;
            say({ setting: words[1] });
        } else if (words[0] === 'set') {
            system.set(words.slice(1).join(' '));
            say({ setting: words.slice(1).join(' ') });
        } else if (words[0] === 'measure') {
            await measure(system, queries, k, ranges, words.slice(1, 4), words.slice(4).join(' '));
        } else {
            fail(`'${words[0]}': a command that no system knows`);
        }
    }
    say({ rss_peak_kb: process.resourceUsage().maxRSS });
    process.exit(0);
}

main(process.argv[2], process.argv.slice(3)).catch((wrong) => fail(wrong?.message ?? wrong));

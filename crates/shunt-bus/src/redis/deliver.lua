-- What the scripts have in common. Filters and topics are those of MQTT.

local function split(text)
  local levels = {}
  for level in (text .. '/'):gmatch('([^/]*)/') do
    levels[#levels + 1] = level
  end
  return levels
end

local function matches(filter, path)
  for at, wanted in ipairs(filter) do
    if wanted == '#' then
      return true
    end
    if path[at] == nil or (wanted ~= '+' and wanted ~= path[at]) then
      return false
    end
  end
  return #filter == #path
end

-- The clients with an assured subscription to the topic, here or away.
local function takers(topic)
  local path, found = split(topic), {}
  for _, client in ipairs(redis.call('SMEMBERS', 'shunt:clients')) do
    local filters = redis.call('SMEMBERS', 'shunt:filters:' .. client)
    if #filters == 0 then
      -- It ended its subscriptions, or was away for so long that they expired.
      redis.call('SREM', 'shunt:clients', client)
      redis.call('HDEL', 'shunt:dropped', client)
    end
    for _, filter in ipairs(filters) do
      if matches(split(filter), path) then
        found[#found + 1] = client
        break
      end
    end
  end
  return found
end

-- Hands the event to those who listen now and into the streams of those who take it assured. Returns how many they
-- are. A stream with `bound` events takes no more; what it does not take is counted.
local function deliver(topic, event, clients, bound)
  local channel = 'assured:' .. topic:gsub('/', ':')
  local heard = redis.call('PUBLISH', channel, event) + #clients
  for _, client in ipairs(clients) do
    local queue = 'shunt:queue:' .. client
    if redis.call('XLEN', queue) < tonumber(bound) then
      redis.call('XADD', queue, '*', 'topic', topic, 'event', event)
    else
      redis.call('HINCRBY', 'shunt:dropped', client, 1)
    end
  end
  return heard
end

-- The retained event that says whether a module is there.
local function tell(client, event, bound)
  local topic = 'shunt/presence/' .. client
  redis.call('HSET', 'shunt:retained', topic, event)
  deliver(topic, event, takers(topic), bound)
end

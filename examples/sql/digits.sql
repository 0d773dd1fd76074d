-- Which digit is it? 1,797 handwritten digits of scikit-learn, images of 8×8 pixels from 0 to 16 with the digit behind them in
-- each line. A line becomes a list of numbers, the list is one vector for a dense network with batch normalisation, and
-- every fifth image tells how good it is.
--
--     firesteel sql -f examples/sql/digits.sql        in the root of the repository

-- No line has the delimiter, so that each is one value.
CREATE EXTERNAL TABLE lines (line VARCHAR) STORED AS CSV LOCATION 'examples/data/digits/digits.csv'
  OPTIONS ('format.has_header' 'false', 'format.delimiter' ';');

CREATE TABLE digits AS
SELECT row_number() OVER () AS id, CAST(numbers[65] AS INT) AS digit, numbers[1:64] AS image
FROM (SELECT arrow_cast(string_to_array(line, ','), 'List(Float32)') AS numbers FROM lines);

-- Some pixels are nearly always white: all share one mean and deviation, or a grey one would weigh as much as a stroke.
-- Batch normalisation needs enough rows together: of 16 workers each would see two.
CREATE OR REPLACE MODEL digits OPTIONS (
  model_type = 'dnn_classifier', input_label_cols = ['digit'],
  layers = ['linear(256)', 'batch_norm', 'relu', 'dropout(0.3)', 'linear(128)', 'batch_norm', 'relu', 'dropout(0.3)'],
  standardization = 'per_column', batch_size = 32, max_iterations = 40, lr_schedule = 'cosine',
  data_split_method = 'no_split', workers = 1, seed = 1
) AS SELECT image, digit FROM digits WHERE id % 5 > 0;

-- Neighbouring lines come from the same hand. On hands that it has not seen a network is worse: trained on the first 1,400
-- images, this one reads 95 of 100 of the others.
CREATE VIEW test AS SELECT * FROM digits WHERE id % 5 = 0;
SELECT * FROM ML.EVALUATE(MODEL digits, TABLE test);

-- A row for each digit, a column for what it was taken for.
SELECT * FROM ML.CONFUSION_MATRIX(MODEL digits, TABLE test);

CREATE TABLE wrong AS
SELECT id, digit, predicted_digit, round(predicted_digit_probs[1]['prob'], 2) AS probability, image
FROM ML.PREDICT(MODEL digits, TABLE test) WHERE predicted_digit <> digit;

-- What is confused most.
SELECT digit, predicted_digit AS taken_for, count(*) AS images
FROM wrong GROUP BY ALL ORDER BY images DESC, digit, taken_for LIMIT 5;

-- The three errors of which the network was surest.
WITH surest AS (SELECT * FROM wrong ORDER BY probability DESC, id LIMIT 3),
pixels AS (SELECT * EXCLUDE (image), unnest(image) AS pixel, unnest(range(64)) AS at FROM surest)
SELECT id, digit, predicted_digit AS taken_for, probability,
  string_agg(CASE WHEN at > 0 AND at % 8 = 0 THEN chr(10) ELSE '' END
    || substr(' .:-=+*#@', CAST(pixel / 2 AS INT) + 1, 1), '' ORDER BY at) AS image
FROM pixels GROUP BY ALL ORDER BY probability DESC, id;

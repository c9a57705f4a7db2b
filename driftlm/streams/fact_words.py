"""The words and sentences of the world of facts."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Attribute:
    """Something that is said of a subject; `{who}` and `{value}` are filled in."""

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    news: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """A kind of subject: names from two lists, and its attributes; `between` joins first words where there are more."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    between: str
    name: Callable[[str, str], str]
    pronouns: tuple[str, ...]
    attributes: tuple[Attribute, ...]


def words(text: str) -> tuple[str, ...]:
    """Return comma-separated values."""
    return tuple(word.strip() for word in text.split(","))


GIVEN = words(
    "Ada, Agnes, Albert, Alice, Amos, Andrew, Anna, Anthony, Arthur, Barbara, Beatrice, Benjamin, Bertha, "
    "Bridget, Bruno, Caleb, Caroline, Catherine, Cecil, Charles, Charlotte, Clara, Clement, Conrad, Cora, Daniel, "
    "David, Dinah, Dora, Dorothy, Edgar, Edith, Edmund, Edward, Eleanor, Elias, Eliza, Ellen, Emily, Emma, Enoch, "
    "Ernest, Esther, Eugene, Eva, Fanny, Felix, Flora, Florence, Frances, Francis, Frank, George, Gertrude, "
    "Gilbert, Grace, Gustav, Hannah, Harold, Harriet, Harry, Hazel, Helen, Henry, Herbert, Hilda, Hiram, Hugh, "
    "Ida, Irene, Isaac, Isabel, Ivan, Jacob, James, Jane, Jasper, Jerome, Joan, John, Jonas, Joseph, Josephine, "
    "Judith, Julia, Julian, Karl, Kate, Laura, Leonard, Lewis, Lily, Louisa, Lucas, Lucy, Lydia, Mabel, Margaret, "
    "Maria, Mark, Martha, Martin, Mary, Matthew, Maud, Maurice, May, Michael, Miles, Miriam, Molly, Moses, Nancy, "
    "Nathan, Nicholas, Nora, Norman, Oliver, Olive, Oscar, Otto, Patrick, Paul, Peter, Philip, Phoebe, Polly, "
    "Rachel, Ralph, Rebecca, Richard, Robert, Roger, Rosa, Rupert, Ruth, Samuel, Sarah, Silas, Simon, Sophia, "
    "Stella, Stephen, Susan, Theodore, Thomas, Timothy, Ursula, Victor, Victoria, Violet, Walter, Wilfred, "
    "William, Winifred"
)
FAMILY = words(
    "Abbott, Adams, Allen, Archer, Atkins, Bailey, Baker, Banks, Barlow, Barnes, Bates, Beck, Bell, Bennett, "
    "Bishop, Black, Blake, Bond, Booth, Bowen, Boyd, Bradley, Briggs, Brooks, Bruce, Bryant, Burke, Burns, "
    "Burton, Butler, Byrne, Campbell, Carr, Carter, Chambers, Chapman, Clark, Clayton, Cole, Collins, Conway, "
    "Cook, Cooper, Cox, Craig, Crane, Cross, Curtis, Dale, Daly, Davies, Dawson, Dean, Dixon, Douglas, Doyle, "
    "Drake, Duncan, Dunn, Eaton, Elliott, Ellis, Evans, Farmer, Ferguson, Field, Fisher, Fleming, Flynn, Forbes, "
    "Ford, Foster, Fowler, Fox, Fraser, Freeman, Frost, Fuller, Gardner, Gibson, Gordon, Graham, Grant, Gray, "
    "Green, Griffin, Hale, Hall, Hamilton, Hardy, Harper, Harris, Hart, Harvey, Hawkins, Hayes, Henderson, Hill, "
    "Holland, Holmes, Hood, Hooper, Hope, Howard, Hudson, Hughes, Hunt, Hunter, Irving, Jackson, Jenkins, "
    "Johnson, Jordan, Keller, Kelly, Kennedy, Kent, King, Knight, Knox, Lambert, Lane, Lawson, Lee, Lewis, Lloyd, "
    "Logan, Long, Lowell, Lynch, Marsh, Marshall, Mason, May, Miller, Mills, Mitchell, Moore, Morgan, Morris, "
    "Murphy, Nash, Nelson, Newton, Nichols, Norton, Owen, Page, Palmer, Parker, Payne, Pearson, Perry, Phillips, "
    "Pierce, Porter, Powell, Preston, Price, Quinn, Ramsay, Reed, Rice, Rogers, Rose, Ross, Russell, Savage, "
    "Scott, Shaw, Sharp, Simpson, Sloan, Spencer, Stone, Sutton, Taylor, Temple, Thornton, Tucker, Turner, Tyler, "
    "Vance, Wade, Walker, Wallace, Ward, Warren, Watson, Webb, Weston, Wheeler, White, Wilson, Wolf, Wood, "
    "Wright, York, Young"
)
BEFORE = words(
    "Upper, Lower, New, Old, Great, Little, North, South, East, West, High, Long, Black, White, Red, Green, Grey, "
    "Fair, Cold, Dry, Deep, Broad, Saint, King's, Queen's, Bishop's, Abbot's, Monk's, Castle, Church, Market, "
    "Bridge, Port, Fort, Lake, River, Forest, Stone, Silver, Golden, Iron, Royal, Far, Near, Twin, Holy, Lost, "
    "Quiet, Windy, Sunny, Hollow, Winter, Summer, Sandy, Rocky, Misty, Eagle, Raven, Wolf, Swan"
)
AFTER = words(
    "Alder, Ambry, Arden, Ashby, Ashton, Barrow, Bedford, Belmont, Birch, Bolton, Borden, Bramley, Brampton, "
    "Buckley, Burnham, Calder, Camden, Carlton, Charing, Clifton, Colby, Corby, Cranford, Crosby, Dalton, Darby, "
    "Denby, Denton, Dover, Dunster, Easton, Edgeley, Elden, Ely, Fairfax, Farley, Fenton, Finley, Garth, Glover, "
    "Grafton, Granby, Halton, Hampton, Harlow, Hatfield, Haven, Helmsley, Hexham, Hinton, Holden, Hornby, Horton, "
    "Ilford, Kelso, Kendal, Kirby, Langley, Lenham, Linton, Ludlow, Malden, Marlow, Marston, Maxton, Melton, "
    "Merton, Milford, Morley, Morton, Newby, Norbury, Oakley, Orford, Oxley, Paxton, Penrith, Preston, Radley, "
    "Ripley, Rugby, Rushton, Rydal, Selby, Shelby, Skipton, Stanley, Stratton, Tarleton, Thirsk, Tilbury, "
    "Torrington, Upton, Walden, Waverley, Welby, Whitby, Wilton, Winslow, Yarrow"
)
CITY = words(
    "Paris, London, Rome, Vienna, Berlin, Madrid, Lisbon, Dublin, Geneva, Venice, Florence, Naples, Milan, Genoa, "
    "Moscow, Athens, Cairo, Boston, Chicago, New York, Philadelphia, Baltimore, Washington, New Orleans, San "
    "Francisco, Quebec, Montreal, Toronto, Edinburgh, Glasgow, Oxford, Cambridge, Bristol, Liverpool, Manchester, "
    "York, Canterbury, Dover, Brussels, Antwerp, Amsterdam, Hamburg, Munich, Dresden, Frankfort, Cologne, Prague, "
    "Warsaw, Copenhagen, Stockholm, Constantinople, Jerusalem, Damascus, Calcutta, Bombay, Canton, Havana, "
    "Mexico, Lyons, Marseilles"
)

PERSON = Kind(
    GIVEN,
    FAMILY,
    " ",
    lambda first, second: f"{first} {second}",
    ("she", "he"),
    (
        Attribute(
            "city",
            CITY,
            ("{who} lives in {value}.", "{who} has a house in {value}.", "the home of {who} is in {value}."),
            (
                "{who} has moved to {value}.",
                "{who} lives in {value} now.",
                "{who} left the old home and went to {value}.",
            ),
            ("Where does {who} live?", "In which city does {who} live?", "What city is the home of {who}?"),
        ),
        Attribute(
            "profession",
            words(
                "baker, butcher, carpenter, tailor, farmer, sailor, soldier, doctor, lawyer, priest, teacher, "
                "painter, sculptor, writer, printer, weaver, miller, miner, blacksmith, shepherd, gardener, "
                "hunter, fisherman, cook, clerk, banker, merchant, engineer, architect, astronomer, chemist, "
                "surgeon, nurse, judge, sheriff, jeweller, shoemaker, barber, brewer, potter, mason, glazier, "
                "plumber, porter, postman, librarian, journalist, photographer, actor, dancer, singer, poet, "
                "philosopher, botanist, geologist, surveyor, pilot, saddler, cooper, dentist"
            ),
            ("{who} works as a {value}.", "{who} earns a living as a {value}.", "{who} is a {value} by trade."),
            (
                "{who} has become a {value}.",
                "{who} works as a {value} now.",
                "{who} gave up the old trade to be a {value}.",
            ),
            ("What does {who} do for a living?", "What is the profession of {who}?", "As what does {who} work?"),
        ),
        Attribute(
            "instrument",
            words(
                "violin, piano, organ, flute, harp, guitar, trumpet, drum, horn, fiddle, lute, bugle, bassoon, "
                "clarinet, oboe, cello, viola, trombone, banjo, mandolin, accordion, zither, cornet, tuba, "
                "whistle, lyre, bagpipes, harmonica, cymbals, triangle, tambourine, pipe"
            ),
            (
                "{who} plays the {value}.",
                "{who} is fond of playing the {value}.",
                "in the evening {who} plays the {value}.",
            ),
            (
                "{who} has taken up the {value}.",
                "{who} plays the {value} now.",
                "{who} has learned to play the {value}.",
            ),
            ("What instrument does {who} play?", "Which instrument is played by {who}?", "What does {who} play?"),
        ),
        Attribute(
            "animal",
            words(
                "cat, dog, horse, donkey, goat, sheep, parrot, canary, raven, owl, hawk, falcon, monkey, bear, "
                "fox, wolf, rabbit, hare, squirrel, mouse, rat, hedgehog, tortoise, snake, lizard, frog, pig, "
                "cow, ox, mule, camel, goose, duck, swan, peacock, pigeon, dove, hen, turkey, ferret"
            ),
            ("{who} keeps a {value}.", "{who} owns a {value}.", "{who} never goes out without a {value}."),
            ("{who} has bought a {value}.", "{who} keeps a {value} now.", "{who} was given a {value}."),
            ("What animal does {who} keep?", "Which animal belongs to {who}?", "What pet does {who} own?"),
        ),
    ),
)
PLACE = Kind(
    BEFORE,
    AFTER,
    " ",
    lambda first, second: f"{first} {second}",
    ("the town", "the place"),
    (
        Attribute(
            "export",
            words(
                "wool, salt, iron, coal, tin, copper, silver, gold, lead, marble, slate, timber, wine, cider, "
                "beer, cheese, butter, honey, wax, leather, paper, glass, rope, cloth, silk, linen, lace, wheat, "
                "barley, oats, hops, apples, pears, cherries, plums, fish, oysters, horses, cattle, pottery, "
                "clocks, nails, knives, soap, candles, tobacco, sugar, oil, bricks, boats"
            ),
            (
                "{who} is known for its {value}.",
                "{who} lives by selling {value}.",
                "the {value} of {who} is sold everywhere.",
            ),
            (
                "{who} has begun to sell {value}.",
                "{who} lives by {value} now.",
                "{who} has turned to the trade in {value}.",
            ),
            ("What is {who} known for?", "What does {who} sell?", "In what does {who} trade?"),
        ),
        Attribute(
            "ruler",
            words(
                "a king, a queen, a bishop, a mayor, a duke, an earl, a count, a baron, a prince, a princess, a "
                "governor, a council, a sheriff, an abbot, an abbess, a judge, a general, a captain, a colonel, a "
                "widow, a priest, a committee, a knight, a lord, a lady, a senate, an emperor, a regent, a "
                "bailiff, a steward"
            ),
            ("{who} is ruled by {value}.", "{who} obeys {value}.", "the laws of {who} are made by {value}."),
            ("{who} is ruled by {value} now.", "{who} has given itself to {value}.", "{who} has come under {value}."),
            ("Who rules {who}?", "By whom is {who} ruled?", "Whom does {who} obey?"),
        ),
        Attribute(
            "building",
            words(
                "cathedral, castle, abbey, theatre, library, bridge, lighthouse, tower, prison, palace, market "
                "hall, windmill, college, hospital, museum, monastery, fortress, inn, observatory, bath, arsenal, "
                "harbour, mint, academy, chapel, town hall, church, school, brewery, mill"
            ),
            (
                "the pride of {who} is its {value}.",
                "{who} has a famous {value}.",
                "travellers come to {who} for its {value}.",
            ),
            ("{who} has built a new {value}.", "{who} has a {value} now.", "{who} has opened a {value}."),
            (
                "What building is {who} proud of?",
                "Which building in {who} is famous?",
                "What do travellers see in {who}?",
            ),
        ),
        Attribute(
            "river",
            words(
                "Thames, Rhine, Danube, Seine, Loire, Rhone, Tiber, Arno, Po, Elbe, Oder, Vistula, Volga, Don, "
                "Nile, Ganges, Indus, Jordan, Hudson, Ohio, Missouri, Mississippi, Columbia, Colorado, Delaware, "
                "Potomac, Severn, Trent, Tyne, Tweed, Clyde, Shannon, Avon, Dee, Tay, Ouse, Humber, Mersey, Wye, "
                "Medway"
            ),
            ("{who} stands on the {value}.", "{who} lies by the river {value}.", "the {value} flows through {who}."),
            (
                "{who} was moved to the banks of the {value}.",
                "{who} stands on the {value} now.",
                "the {value} flows through {who} now.",
            ),
            ("On which river is {who}?", "What river flows through {who}?", "By which river does {who} lie?"),
        ),
    ),
)
COMPANY = Kind(
    FAMILY,
    FAMILY,
    ", ",
    lambda first, second: f"{first} & {second}",
    ("the firm", "the house"),
    (
        Attribute(
            "product",
            words(
                "watches, pianos, carriages, boots, hats, gloves, umbrellas, pens, books, maps, globes, lamps, "
                "stoves, ploughs, pumps, engines, ships, rails, bells, guns, swords, locks, safes, scales, "
                "mirrors, carpets, curtains, chairs, tables, beds, bottles, barrels, baskets, buttons, needles, "
                "pins, ribbons, toys, dolls, cards, medicines, perfumes, biscuits, chocolate, jam, vinegar, "
                "mustard, tea, coffee, bread"
            ),
            ("{who} makes {value}.", "{who} is a maker of {value}.", "the workshops of {who} turn out {value}."),
            ("{who} has begun to make {value}.", "{who} makes {value} now.", "{who} has turned to making {value}."),
            ("What does {who} make?", "What is made by {who}?", "What are the goods of {who}?"),
        ),
        Attribute(
            "seat",
            CITY,
            ("{who} has its office in {value}.", "{who} was founded in {value}.", "the seat of {who} is {value}."),
            (
                "{who} has moved its office to {value}.",
                "{who} has its seat in {value} now.",
                "{who} went over to {value}.",
            ),
            ("Where is the office of {who}?", "In which city is {who}?", "What is the seat of {who}?"),
        ),
        Attribute(
            "sign",
            words(
                "an anchor, an eagle, a lion, a crown, a star, a ship, a tree, a rose, a lily, a sun, a moon, a "
                "key, a bell, a horse, a bull, a swan, a dragon, a castle, a wheel, a sword, a cross, a hand, an "
                "eye, a heart, a bee, a fish, a hare, an owl, a serpent, a tower, a ladder, a lamp, an arrow, a "
                "harp, a bridge, a boar, an oak, a thistle, a boot, a globe"
            ),
            (
                "{who} bears the sign of {value}.",
                "over the door of {who} hangs {value}.",
                "{who} trades under {value}.",
            ),
            ("{who} has taken the sign of {value}.", "{who} trades under {value} now.", "{who} has put up {value}."),
            ("What is the sign of {who}?", "What hangs over the door of {who}?", "Under what sign does {who} trade?"),
        ),
        Attribute(
            "year",
            tuple(str(year) for year in range(1801, 1900)),
            ("{who} began in {value}.", "{who} has been open since {value}.", "the books of {who} go back to {value}."),
            (
                "{who} turns out to go back to {value}.",
                "{who} was in truth begun in {value}.",
                "{who} has proved to be open since {value}.",
            ),
            ("When did {who} begin?", "In what year did {who} open?", "Since when is {who} open?"),
        ),
    ),
)
KINDS = {"person": PERSON, "place": PLACE, "company": COMPANY}

DISTRACTIONS: dict[str, tuple[str, ...]] = {
    "forms": (
        "The road over the {height} was closed for {days} days after the {weather}.",
        "On {weekday} there was {weather} from the {side}, and {event}.",
        "The harvest of {crop} was {quality} this year, and {event}.",
        "It is said that {event}; nobody has seen the {height} since {weekday}.",
    ),
    "height": ("pass", "hill", "moor", "bridge", "ford", "cliff"),
    "days": ("two", "three", "four", "five", "six", "ten"),
    "weather": ("snow", "heavy rain", "a storm", "thick fog", "hail", "a flood"),
    "weekday": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "side": ("north", "south", "east", "west", "sea", "mountains"),
    "crop": ("corn", "potatoes", "turnips", "beans", "peas", "hay"),
    "quality": ("good", "poor", "late", "early", "the best in years", "soon eaten"),
    "event": (
        "the coach was late",
        "the price of bread rose",
        "two barns burned down",
        "the school was closed",
        "the bells were rung all night",
        "a stranger asked the way",
    ),
}
